// The soak of bench/e2e/soak.ts for as long as a test may take: the real processes in network namespaces, faults from a seed,
// and a checked transfer that must end with the right bytes. What fails prints the command that replays it.
import { soak } from '../../bench/e2e/soak.js';
import type { FaultName } from '../../bench/e2e/soak-faults.js';
import { kernelTest, missing, remains, unique } from '../support/kernel.js';

const check = kernelTest(missing('nft', 'ss', 'mount', 'dd'));

/** Every fault but the one that takes 40 s; and the short ones over QUIC, whose connections differ in what they survive. */
const runs: readonly { transport: string; connections: number; faults: readonly FaultName[] }[] = [
  {
    transport: 'tcp',
    connections: 2,
    faults: [
      'NAT rebinds',
      'a clone of the edge comes',
      'cable pulled',
      'hub killed and restarted while its disk is full',
      'address of the edge changes',
      'edge killed, its FIN and RST lost',
      'hub frozen',
    ],
  },
  {
    transport: 'quic',
    connections: 1,
    faults: ['NAT rebinds', 'hub killed and restarted', 'black hole', '30 % loss', 'address of the edge changes'],
  },
];

for (const { transport, connections, faults } of runs) {
  check(
    `faults over ${transport}: traffic is back within the bounds, the transfer is right, nothing is left`,
    async (t) => {
      t.timeout(170_000);
      const prefix = unique(transport);
      const options = {
        seed: 1,
        seconds: 60,
        transport,
        connections,
        faults,
        once: true,
        log: (line: string) => t.log(line),
      };
      const { outcomes, received } = await soak(prefix, options);
      t.is(outcomes.length, faults.length);
      t.true(received > 0);
      t.deepEqual(await remains(prefix), []);
    },
  );
}
