// Proportional rate reduction: RFC 6937 and its successor draft-ietf-tcpm-prr-rfc6937bis (names from there).
// From the start of an episode to its end the window moves from the pipe to ssthresh, clocked by what is delivered.

export class Prr {
  private delivered = 0;
  private out = 0;
  private recoverFs = 1;

  /** `flight`: bytes outstanding when the episode begins. */
  begin(flight: number): void {
    this.delivered = 0;
    this.out = 0;
    this.recoverFs = Math.max(flight, 1);
  }

  handleSent(bytes: number): void {
    this.out += bytes;
  }

  /** The window after an acknowledgement that delivered `delivered` bytes. */
  handleAck(delivered: number, pipe: number, ssthresh: number, safe: boolean, mss: number): number {
    this.delivered += delivered;
    let send: number;
    if (pipe > ssthresh) {
      send = Math.ceil((this.delivered * ssthresh) / this.recoverFs) - this.out;
    } else {
      // SafeACK: the loss is repaired and none is new, so slow start up to ssthresh is in order.
      send = Math.max(this.delivered - this.out, delivered);
      if (safe) send += mss;
      send = Math.min(ssthresh - pipe, send);
    }
    // Force the fast retransmit on entering.
    if (this.out === 0 && send < mss) send = mss;
    return pipe + Math.max(send, 0);
  }
}
