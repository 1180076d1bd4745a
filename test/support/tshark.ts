// tshark as a witness: captures a device in a namespace, and says what its expert analysis finds malformed or in error.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';

export class Capture {
  private constructor(
    private readonly child: ChildProcess,
    readonly file: string,
  ) {}

  static async start(namespace: string, device: string, file: string, filter = ''): Promise<Capture> {
    const args = ['netns', 'exec', namespace, 'tshark', '-q', '-i', device, '-B', '16', '-w', file];
    if (filter !== '') args.push('-f', filter);
    const child = spawn('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });
    for await (const text of child.stderr!) if (/Capturing|started/.test(String(text))) break;
    return new Capture(child, file);
  }

  /** Ends it, with what was captured in the file. */
  async stop(): Promise<void> {
    this.child.kill('SIGINT');
    await once(this.child, 'exit');
  }

  kill(): void {
    this.child.kill('SIGKILL');
  }
}

/**
 * Lines of `expert,error` about IP, TCP, UDP and ICMP (what they carry is somebody else's); losses and their repair are only
 * notes and warnings there.
 */
export function expertErrors(file: string): string {
  const args = ['-r', file, '-o', 'tcp.check_checksum:FALSE', '-q', '-z', 'expert,error'];
  return execFileSync('tshark', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
    .split('\n')
    .filter((line) => /^\s+\d+\s+\w+\s+(IP|TCP|UDP|ICMP)/.test(line))
    .join('\n');
}

/** How many packets of the file match a display filter. */
export function countPackets(file: string, filter: string): number {
  const args = ['-r', file, '-o', 'tcp.check_checksum:FALSE', '-Y', filter, '-T', 'fields', '-e', 'frame.number'];
  return execFileSync('tshark', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
    .split('\n')
    .filter(Boolean).length;
}
