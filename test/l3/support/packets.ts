// Packets for tests, built from fields with slow and obvious code that shares nothing with lib/l3.

export interface PacketFields {
  source: string;
  destination: string;
  /** 6 TCP, 17 UDP. */
  protocol: 6 | 17;
  payload: Uint8Array;
  ttl?: number;
  id?: number;
  dontFragment?: boolean;
  tcp?: { seq?: number; flags?: number; options?: readonly number[] };
  /** Bytes of IPv4 options, a multiple of 4. */
  ipOptions?: readonly number[];
}

const addressBytes = (text: string): number[] => {
  if (!text.includes(':')) return text.split('.').map(Number);
  const [head, tail] = text.split('::');
  const groups = (part: string | undefined) => (part ? part.split(':').map((g) => Number.parseInt(g, 16)) : []);
  const left = groups(head);
  const right = groups(tail);
  const all = tail === undefined ? left : [...left, ...Array(8 - left.length - right.length).fill(0), ...right];
  return all.flatMap((g) => [g >> 8, g & 0xff]);
};

const u16 = (n: number) => [(n >> 8) & 0xff, n & 0xff];
const u32 = (n: number) => [...u16(Math.floor(n / 65_536) % 65_536), ...u16(n % 65_536)];

/** RFC 1071 with plain numbers. */
export function slowChecksum(bytes: readonly number[]): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) {
    sum += bytes[i]! * 256 + (bytes[i + 1] ?? 0);
    sum = (sum % 65_536) + Math.floor(sum / 65_536);
  }
  return 65_535 - sum;
}

/** A complete, correct IP packet. */
export function makePacket(f: PacketFields): Buffer {
  const source = addressBytes(f.source);
  const destination = addressBytes(f.destination);
  const v4 = source.length === 4;
  const options = f.tcp?.options ?? [];
  const before =
    f.protocol === 6
      ? [
          ...u16(40_000),
          ...u16(80),
          ...u32(f.tcp?.seq ?? 1000),
          ...u32(7),
          ((20 + options.length) / 4) * 16,
          f.tcp?.flags ?? 0x18,
          ...u16(5000),
        ]
      : [...u16(40_000), ...u16(53), ...u16(8 + f.payload.length)];
  const after = [...(f.protocol === 6 ? [0, 0, ...options] : []), ...f.payload];
  const length = before.length + 2 + after.length;
  const pseudo = v4
    ? [...source, ...destination, 0, f.protocol, ...u16(length)]
    : [...source, ...destination, ...u32(length), 0, 0, 0, f.protocol];
  const sum = slowChecksum([...pseudo, ...before, 0, 0, ...after]);
  const transport = [...before, ...u16(sum === 0 && f.protocol === 17 ? 0xffff : sum), ...after];
  if (!v4)
    return Buffer.from([
      0x60,
      0,
      0,
      0,
      ...u16(length),
      f.protocol,
      f.ttl ?? 64,
      ...source,
      ...destination,
      ...transport,
    ]);
  const ipOptions = f.ipOptions ?? [];
  const header = 20 + ipOptions.length;
  const start = [
    0x40 + header / 4,
    0,
    ...u16(header + length),
    ...u16(f.id ?? 77),
    f.dontFragment === false ? 0 : 0x40,
    0,
    f.ttl ?? 64,
    f.protocol,
  ];
  const rest = [...source, ...destination, ...ipOptions];
  return Buffer.from([...start, ...u16(slowChecksum([...start, 0, 0, ...rest])), ...rest, ...transport]);
}

/** Frames of the packets, back to back. */
export function frames(...packets: { packet: Buffer; flags?: number; gsoSize?: number }[]): Buffer {
  return Buffer.concat(
    packets.map(({ packet, flags = 0, gsoSize = 0 }) =>
      Buffer.concat([Buffer.from([0, flags, ...u16(gsoSize), ...u32(packet.length)]), packet]),
    ),
  );
}
