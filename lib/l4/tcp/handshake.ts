// What the SYNs agree on: RFC 9293 §3.7.1 (MSS), RFC 7323 §2.2 and §3.2, RFC 2018 §2, RFC 3168 §6.1.1.

import type { Micros } from '../../core/index.js';
import { TcpFlag, type TcpSegment } from '../wire/tcp.js';
import type { TcpFields } from '../wire/tcp-emit.js';
import { Ecn } from './ecn.js';
import type { Receiver } from './receiver.js';
import type { RttEstimator } from './rtt.js';
import type { Sender } from './sender.js';
import type { Timestamps } from './timestamps.js';
import type { CookieState, TcpOptions } from './types.js';

/** RFC 9293 MUST-15: of a peer that sends no MSS option. */
export const DEFAULT_MSS_V4 = 536;
export const DEFAULT_MSS_V6 = 1_220;
const MAX_WINDOW_SCALE = 14; // RFC 7323 §2.3
/** Smallest segment we let a peer impose on us (as Linux' tcp_min_snd_mss): tiny ones are an attack on our CPU. */
const MIN_SEND_MSS = 48;
/** After so many SYNs without an answer ECN is left out: something on the path may not bear it (RFC 3168 §6.1.1.1). */
const ECN_SYNS = 2;

/** The least shift with which a window of `bytes` can be offered. */
export function windowScaleFor(bytes: number): number {
  let shift = 0;
  while (shift < MAX_WINDOW_SCALE && bytes >> shift > 65_535) shift++;
  return shift;
}

export class Handshake {
  /** Agreed; meaningful once the peer's SYN was seen. */
  sack = false;
  timestamps = false;
  ecn = false;
  peerMss: number;
  sendScale = 0;
  receiveScale = 0;
  syns = 0;
  /** When our last SYN went out. */
  sentAt: Micros = -1;
  /** The peer's SYN was seen: ours carries ACK from now on. */
  synReceived = false;

  constructor(
    private readonly options: TcpOptions,
    v6: boolean,
  ) {
    this.peerMss = v6 ? DEFAULT_MSS_V6 : DEFAULT_MSS_V4;
  }

  /** The peer's SYN or SYN-ACK. What is agreed is what both sent. */
  handleSyn(segment: TcpSegment): void {
    const { options } = this;
    this.synReceived = true;
    const isAnswer = (segment.flags & TcpFlag.ack) !== 0;
    this.agree(
      segment.mss,
      segment.windowScale,
      options.sack && segment.sackPermitted,
      options.timestamps && segment.hasTimestamps,
    );
    const ece = (segment.flags & TcpFlag.ece) !== 0;
    const cwr = (segment.flags & TcpFlag.cwr) !== 0;
    // ECN-setup SYN: ECE and CWR; ECN-setup SYN-ACK: ECE alone, in answer to ours.
    this.ecn = isAnswer ? options.ecn && this.syns <= ECN_SYNS && ece && !cwr : ece && cwr;
  }

  handleCookie(cookie: CookieState): void {
    this.synReceived = true;
    this.agree(cookie.mss, cookie.windowScale, cookie.sackPermitted, cookie.timestamps);
    if (cookie.ourWindowScale >= 0 && cookie.windowScale >= 0) this.receiveScale = cookie.ourWindowScale;
    this.ecn = cookie.ecn;
  }

  private agree(mss: number, scale: number, sack: boolean, timestamps: boolean): void {
    if (mss > 0) this.peerMss = Math.max(mss, MIN_SEND_MSS);
    this.sack = sack;
    this.timestamps = timestamps;
    if (this.options.windowScaling && scale >= 0) {
      this.sendScale = Math.min(scale, MAX_WINDOW_SCALE);
      this.receiveScale = windowScaleFor(this.options.maxReceiveBuffer);
    }
  }

  /** The handshake's own round trip: Karn (RFC 6298 §3) allows it if the SYN went once, or if a timestamp tells which one it was. */
  sampleRtt(now: Micros, segment: TcpSegment, ts: Timestamps, rtt: RttEstimator): void {
    if (this.syns === 1 && this.sentAt >= 0) rtt.handleSample(now, now - this.sentAt);
    else if (this.syns > 1) {
      const elapsed = ts.enabled && segment.hasTimestamps ? ts.elapsed(now, segment.tsecr) : -1;
      if (elapsed >= 0) rtt.handleSample(now, elapsed);
      else rtt.handleSynLoss();
    }
  }

  /** In segments: RFC 6928, and RFC 5681 §3.1 with RFC 6928 §2: one when the SYN was lost more than once. */
  get initialWindow(): number {
    return this.syns > 2 ? 1 : this.options.initialWindow;
  }

  applyTo(sender: Sender, receiver: Receiver): void {
    sender.windowScale = this.sendScale;
    receiver.windowScale = this.receiveScale;
    sender.recovery.sackEnabled = this.sack;
    if (this.ecn) sender.ecn = new Ecn(true);
  }

  /** Flags and options of our SYN or SYN-ACK. `mss`: what the route's MTU allows us to receive. */
  fillSyn(f: TcpFields, mss: number, tsval: number, tsRecent: number): void {
    const { options } = this;
    this.syns++;
    f.mss = mss;
    if (this.synReceived) {
      f.sackPermitted = this.sack;
      f.timestamps = this.timestamps;
      f.windowScale = this.receiveScale > 0 || this.sendScale > 0 ? this.receiveScale : -1;
      if (this.ecn && this.syns <= ECN_SYNS) f.flags |= TcpFlag.ece;
    } else {
      f.sackPermitted = options.sack;
      f.timestamps = options.timestamps;
      f.windowScale = options.windowScaling ? windowScaleFor(options.maxReceiveBuffer) : -1;
      if (options.ecn && this.syns <= ECN_SYNS) f.flags |= TcpFlag.ece | TcpFlag.cwr;
    }
    f.tsval = tsval;
    f.tsecr = this.synReceived ? tsRecent : 0;
  }
}
