// A packet as one line in the manner of tcpdump: for traces, tests and error messages. Never throws, whatever the bytes.

import { Flag, GSO_FLAGS, getU16, getU32, gsoSizeAt, HEADER, lengthAt } from '../../core/index.js';
import { formatAddress } from '../address.js';
import { Icmp4, Unreachable4 } from './icmpv4.js';
import { Icmp6 } from './icmpv6.js';
import { fragmentOffset4, isFragment4, isIpv4, moreFragments4, protocol4, ttl4 } from './ipv4.js';
import { hopLimit6, isIpv6 } from './ipv6.js';
import { Protocol } from './protocol.js';
import { destinationPort, sourcePort, TcpFlag, tcpHeaderLength, upperLayer } from './transport.js';

const NAMES: Record<number, string> = Object.fromEntries(
  Object.entries(Protocol).map(([name, number]) => [number, name]),
);

/**
 * 'IP 10.80.0.2.40000 > 10.80.0.3.80: TCP [PA] seq 1000 ack 7 win 5000 length 5 ttl 64 gso 1348', for the frame at `off`.
 */
export function packetLine(buf: Uint8Array, off: number): string {
  if (off + HEADER > buf.length) return `no frame: ${buf.length - off} bytes`;
  const p = off + HEADER;
  const length = lengthAt(buf, off);
  if (p + length > buf.length) return `cut frame: length ${length}, ${buf.length - p} bytes there`;
  const flags = buf[off + 1]!;
  const offload = [
    (flags & GSO_FLAGS) !== 0 ? ` gso ${gsoSizeAt(buf, off)}` : '',
    (flags & Flag.partialChecksum) !== 0 ? ' partial-checksum' : '',
  ].join('');
  const v4 = isIpv4(buf, p, length);
  if (!v4 && !isIpv6(buf, p, length))
    return `no IP packet: ${length} bytes, first ${buf.subarray(p, p + Math.min(8, length)).join(' ')}`;
  const source = formatAddress(buf.subarray(v4 ? p + 12 : p + 8, v4 ? p + 16 : p + 24));
  const destination = formatAddress(buf.subarray(v4 ? p + 16 : p + 24, v4 ? p + 20 : p + 40));
  const tail = ` ttl ${v4 ? ttl4(buf, p) : hopLimit6(buf, p)}${offload}`;
  const head = (from = '', to = '') => `${v4 ? 'IP' : 'IP6'} ${source}${from} > ${destination}${to}:`;
  const fragment =
    v4 && isFragment4(buf, p) ? ` frag ${fragmentOffset4(buf, p)}${moreFragments4(buf, p) ? '+' : ''}` : '';
  const upper = upperLayer(buf, p, length);
  if (upper < 0) return `${head()} unreadable headers${tail}`;
  const protocol = upper >>> 16;
  const t = p + (upper & 0xffff);
  const room = p + length - t;
  if (protocol === Protocol.fragment) {
    return `${head()} ${v4 ? (NAMES[protocol4(buf, p)] ?? protocol4(buf, p)) : 'fragment'}${fragment} length ${room}${tail}`;
  }
  if (protocol === Protocol.tcp && room >= 20) {
    const ports = [`.${sourcePort(buf, t)}`, `.${destinationPort(buf, t)}`] as const;
    return `${head(...ports)} TCP ${tcpText(buf, t, room)}${fragment}${tail}`;
  }
  if (protocol === Protocol.udp && room >= 8) {
    return `${head(`.${sourcePort(buf, t)}`, `.${destinationPort(buf, t)}`)} UDP length ${room - 8}${fragment}${tail}`;
  }
  if (protocol === Protocol.icmp && room >= 8)
    return `${head()} ICMP ${icmp4Text(buf, t)}${fragment} length ${room}${tail}`;
  if (protocol === Protocol.icmpv6 && room >= 8) return `${head()} ICMP6 ${icmp6Text(buf, t)} length ${room}${tail}`;
  return `${head()} ${NAMES[protocol] ?? `protocol ${protocol}`}${fragment} length ${room}${tail}`;
}

function tcpText(buf: Uint8Array, t: number, room: number): string {
  const bits = buf[t + 13]!;
  const letters: [number, string][] = [
    [TcpFlag.syn, 'S'],
    [TcpFlag.fin, 'F'],
    [TcpFlag.rst, 'R'],
    [TcpFlag.psh, 'P'],
    [TcpFlag.ack, 'A'],
    [TcpFlag.urg, 'U'],
    [TcpFlag.ece, 'E'],
    [TcpFlag.cwr, 'W'],
  ];
  const set = letters.filter(([bit]) => (bits & bit) !== 0).map(([, letter]) => letter);
  const ack = (bits & TcpFlag.ack) !== 0 ? ` ack ${getU32(buf, t + 8)}` : '';
  const payload = room - tcpHeaderLength(buf, t);
  return `[${set.join('')}] seq ${getU32(buf, t + 4)}${ack} win ${getU16(buf, t + 14)} length ${payload}`;
}

function icmp4Text(buf: Uint8Array, t: number): string {
  const type = buf[t]!;
  const code = buf[t + 1]!;
  if (type === Icmp4.echoRequest || type === Icmp4.echoReply) {
    return `echo ${type === Icmp4.echoRequest ? 'request' : 'reply'} id ${getU16(buf, t + 4)} seq ${getU16(buf, t + 6)}`;
  }
  if (type === Icmp4.timeExceeded) return 'time exceeded';
  if (type !== Icmp4.unreachable) return `type ${type} code ${code}`;
  if (code === Unreachable4.fragmentationNeeded) return `fragmentation needed mtu ${getU16(buf, t + 6)}`;
  const name = Object.entries(Unreachable4).find(([, c]) => c === code)?.[0];
  return `unreachable ${name ?? code}`;
}

function icmp6Text(buf: Uint8Array, t: number): string {
  const type = buf[t]!;
  if (type === Icmp6.echoRequest || type === Icmp6.echoReply) {
    return `echo ${type === Icmp6.echoRequest ? 'request' : 'reply'} id ${getU16(buf, t + 4)} seq ${getU16(buf, t + 6)}`;
  }
  if (type === Icmp6.timeExceeded) return 'time exceeded';
  if (type === Icmp6.packetTooBig) return `packet too big mtu ${getU32(buf, t + 4)}`;
  if (type === Icmp6.unreachable) return `unreachable code ${buf[t + 1]}`;
  return `type ${type} code ${buf[t + 1]}`;
}
