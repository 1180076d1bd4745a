// Core: the layer above's control messages of one link, reliable and in order over all its connections, whatever
// connection dies. Each message has a number; what the peer has is said in every ping and pong. A link of one
// connection needs no copies: with the connection the link is gone, and with it the channel.

import { getU32, putU32 } from '../core/index.js';

export const CONTROL_HEADER = 4;

export class ControlChannel {
  /** Number of the last message received. */
  received = 0;
  private sent = 0;
  private kept: Uint8Array[] = [];
  private keptBytes = 0;
  /** Bytes received since the peer was last told. */
  private untold = 0;

  constructor(
    private readonly keeps: boolean,
    private readonly maxBytes: number,
  ) {}

  /** The payload of the control frame, or null: more is unacknowledged than allowed. */
  wrap(message: Uint8Array): Uint8Array | null {
    if (this.keptBytes + message.length > this.maxBytes) return null;
    const payload = new Uint8Array(CONTROL_HEADER + message.length);
    this.sent = (this.sent + 1) >>> 0;
    putU32(payload, 0, this.sent);
    payload.set(message, CONTROL_HEADER);
    if (this.keeps) {
      this.kept.push(payload);
      this.keptBytes += message.length;
    }
    return payload;
  }

  /** The message in a payload received; null: seen before. Undefined: no message can have this number. */
  handle(payload: Uint8Array): Uint8Array | null | undefined {
    if (payload.length < CONTROL_HEADER) return undefined;
    const ahead = (getU32(payload, 0) - this.received) | 0;
    if (ahead > 1) return undefined;
    if (ahead < 1) return null;
    this.received = (this.received + 1) >>> 0;
    this.untold += payload.length;
    return payload.subarray(CONTROL_HEADER);
  }

  /** What the peer says it has. False: more than was sent. */
  handleAck(received: number): boolean {
    const missing = (this.sent - received) | 0;
    if (missing < 0) return false;
    while (this.kept.length > missing) this.keptBytes -= this.kept.shift()!.length - CONTROL_HEADER;
    return true;
  }

  /** What has to be sent again on another connection, in order. */
  unacknowledged(): readonly Uint8Array[] {
    return this.kept;
  }

  /** True: enough was received to tell the peer without waiting for the next keepalive. */
  get wantsAck(): boolean {
    return this.keeps && this.untold >= 64 * 1024;
  }

  /** Called when `received` was put in a ping or pong. */
  told(): void {
    this.untold = 0;
  }
}
