// Urgent data: RFC 9293 §3.8.5 as RFC 6093 advises. We never send it; what is received stays in the stream where it was
// sent (as with SO_OOBINLINE), so the pointer changes nothing but this counter.

import { TcpFlag, type TcpSegment } from '../wire/tcp.js';

export class Urgent {
  received = 0;

  /** A segment with URG and a pointer into or behind its text: counted, not obeyed. */
  handleSegment(segment: TcpSegment): void {
    if (segment.flags & TcpFlag.urg && segment.urgent > 0) this.received++;
  }
}
