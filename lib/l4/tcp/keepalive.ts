// Keep-alive: RFC 9293 §3.8.4. Off by default; a probe that is not answered proves nothing, several do.

import type { Micros } from '../../core/index.js';
import type { TcpOptions } from './types.js';

export class KeepAlive {
  private heard: Micros;
  private probes = 0;

  constructor(now: Micros) {
    this.heard = now;
  }

  handleHeard(now: Micros): void {
    this.heard = now;
    this.probes = 0;
  }

  /** When to look again. */
  deadline(options: TcpOptions): Micros {
    return this.heard + options.keepAliveIdle + this.probes * options.keepAliveInterval;
  }

  /** At `deadline`: probe, or give up, or (the deadline moved meanwhile) wait. */
  handleTimeout(now: Micros, options: TcpOptions): 'probe' | 'dead' | 'wait' {
    if (now < this.deadline(options)) return 'wait';
    if (this.probes >= options.keepAliveCount) return 'dead';
    this.probes++;
    return 'probe';
  }
}
