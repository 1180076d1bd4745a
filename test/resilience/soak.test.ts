// The soak of bench/e2e/soak.ts for as long as a test may take, a minute in all: the real processes in network namespaces, faults at
// random from a seed that is another each time (or KUBEBUS_SOAK_SEED), and a checked transfer that must end with the right bytes.
// What fails prints the command that replays it.
import { randomInt } from 'node:crypto';
import { soak } from '../../bench/e2e/soak.js';
import type { FaultName } from '../../bench/e2e/soak-faults.js';
import { kernelTest, missing, remains, unique } from '../support/kernel.js';

const check = kernelTest(missing('nft', 'ss', 'mount', 'dd'));
const seed = Number(process.env.KUBEBUS_SOAK_SEED) || randomInt(1, 2 ** 31);

/** No fault begins after `seconds`. The short ones: one that takes 40 s is for `npm run soak`. QUIC's connections differ in what they survive. */
const runs: readonly { transport: string; connections: number; seconds: number; faults: readonly FaultName[] }[] = [
  {
    transport: 'tcp',
    connections: 2,
    seconds: 24,
    faults: [
      'NAT rebinds',
      'a clone of the edge comes',
      'cable pulled',
      'hub killed and restarted while its disk is full',
      'address of the edge changes',
      'edge killed, its FIN and RST lost',
      'hub frozen',
      'edge frozen',
      'one direction lost',
    ],
  },
  {
    transport: 'quic',
    connections: 1,
    seconds: 18,
    faults: ['NAT rebinds', 'hub killed and restarted', 'black hole', '30 % loss', 'address of the edge changes'],
  },
];

for (const { transport, connections, seconds, faults } of runs) {
  check(
    `faults over ${transport}: traffic is back within the bounds, the transfer is right, nothing is left`,
    async (t) => {
      t.timeout(170_000);
      process.stderr.write(`soak over ${transport}: seed ${seed}\n`);
      const prefix = unique(transport);
      const options = { seed, seconds, transport, connections, faults, log: (line: string) => t.log(line) };
      const { outcomes, received } = await soak(prefix, options);
      t.true(outcomes.length > 0);
      t.true(received > 0);
      t.deepEqual(await remains(prefix), []);
    },
  );
}
