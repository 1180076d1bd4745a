// A capture file with one interface per node (pcapng, draft-ietf-opsawg-pcapng), as Wireshark and tshark read it.

import { HEADER } from '../../lib/core/index.js';

const SECTION = 0x0a0d0d0a;
const INTERFACE = 1;
const PACKET = 6;
/** LINKTYPE_RAW: IPv4 or IPv6, by the first half byte. */
const RAW_IP = 101;
/** A run that never ends must not fill the disk. */
const MAX_BYTES = 256 * 1024 * 1024;

export class PcapngWriter {
  private interfaces = 0;
  private written = 0;

  constructor(private readonly write: (bytes: Uint8Array) => void) {
    const body = Buffer.alloc(16);
    body.writeUInt32LE(0x1a2b3c4d, 0);
    body.writeUInt16LE(1, 4);
    body.writeBigInt64LE(-1n, 8);
    this.block(SECTION, body);
  }

  /** The IP packet of a frame, as node number `node` saw it; `now` in microseconds. */
  packet(node: number, now: number, frame: Uint8Array): void {
    if (this.written > MAX_BYTES) return;
    while (this.interfaces <= node) this.interface(`node${this.interfaces++}`);
    const bytes = frame.length - HEADER;
    const body = Buffer.alloc(20 + padded(bytes));
    const at = BigInt(Math.round(now));
    body.writeUInt32LE(node, 0);
    body.writeUInt32LE(Number(at >> 32n), 4);
    body.writeUInt32LE(Number(at & 0xffffffffn), 8);
    body.writeUInt32LE(bytes, 12);
    body.writeUInt32LE(bytes, 16);
    body.set(frame.subarray(HEADER), 20);
    this.block(PACKET, body);
  }

  private interface(name: string): void {
    const text = Buffer.from(name);
    const body = Buffer.alloc(8 + 4 + padded(text.length) + 4);
    body.writeUInt16LE(RAW_IP, 0);
    // Option 2 is the name; option 0 ends them.
    body.writeUInt16LE(2, 8);
    body.writeUInt16LE(text.length, 10);
    text.copy(body, 12);
    this.block(INTERFACE, body);
  }

  private block(type: number, body: Buffer): void {
    const length = body.length + 12;
    const edge = Buffer.alloc(8);
    edge.writeUInt32LE(type, 0);
    edge.writeUInt32LE(length, 4);
    this.write(Buffer.concat([edge, body, edge.subarray(4)]));
    this.written += length;
  }
}

function padded(n: number): number {
  return (n + 3) & ~3;
}
