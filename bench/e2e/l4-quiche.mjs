// Bulk over one QUIC stream of the quiche binding in @matrixai/quic, driven here: `serve HOST` prints the port and then the received
// Gbit/s; `send HOST:PORT SECONDS`. Certificates: KEY, CERT and CA files in the environment. UDP payloads of 1,350 bytes.
import { randomBytes } from 'node:crypto';
import dgram from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import quiche from '@matrixai/quic/native/quiche.js';

const PAYLOAD = 1_350;
const WINDOW = 16 * 1024 * 1024;
const [mode, where, seconds = '2'] = process.argv.slice(2);
const file = (name) => readFileSync(process.env[name]);

// Only the server shows a certificate.
const verify = mode !== 'serve';
const config = quiche.Config.withBoringSslCtx(verify, !verify, file('CA'), [file('KEY')], [file('CERT')], null);
config.setApplicationProtos(['bulk/1']);
config.setMaxIdleTimeout(10_000);
config.setMaxRecvUdpPayloadSize(65_527);
config.setMaxSendUdpPayloadSize(PAYLOAD);
config.setInitialMaxData(2 * WINDOW);
config.setInitialMaxStreamDataBidiLocal(WINDOW);
config.setInitialMaxStreamDataBidiRemote(WINDOW);
config.setInitialMaxStreamDataUni(WINDOW);
config.setInitialMaxStreamsBidi(4);
config.setInitialMaxStreamsUni(4);
config.setMaxConnectionWindow(4 * WINDOW);
config.setMaxStreamWindow(2 * WINDOW);

// Without a lookup function dgram resolves the address again for each packet.
const lookup = (host, _options, done) => done(null, host, 4);
const socket = dgram.createSocket({ type: 'udp4', lookup, recvBufferSize: 4 << 20, sendBufferSize: 4 << 20 });
const up = once(socket, 'listening');
socket.bind(0, mode === 'serve' ? where : undefined);
await up;
const own = socket.address();
const local = { host: own.address, port: own.port };

let connection = null;
let timer;
let scheduled = false;
let onRound = () => {};
const out = Buffer.allocUnsafe(PAYLOAD);

function flush() {
  for (let sent = connection.send(out); sent != null; sent = connection.send(out)) {
    // The socket may keep the buffer until a later turn.
    socket.send(Buffer.from(out.subarray(0, sent[0])), sent[1].to.port, sent[1].to.host);
  }
  clearTimeout(timer);
  const timeout = connection.timeout();
  if (timeout != null) {
    timer = setTimeout(() => {
      connection.onTimeout();
      schedule();
    }, timeout + 1);
  }
}

function schedule() {
  if (scheduled) return;
  scheduled = true;
  setImmediate(() => {
    scheduled = false;
    onRound();
    flush();
  });
}

socket.on('message', (data, from) => {
  const remote = { host: from.address, port: from.port };
  connection ??= quiche.Connection.accept(randomBytes(quiche.MAX_CONN_ID_LEN), null, local, remote, config);
  try {
    connection.recv(data, { from: remote, to: local });
  } catch {
    // The next flush tells the peer.
  }
  schedule();
});

if (mode === 'serve') {
  const scratch = Buffer.allocUnsafe(65_536);
  let bytes = 0;
  let start = 0;
  onRound = () => {
    if (!connection.isEstablished()) return;
    for (const id of connection.readable()) {
      for (let read = connection.streamRecv(id, scratch); read != null; read = connection.streamRecv(id, scratch)) {
        if (start === 0) start = performance.now();
        bytes += read[0];
        if (read[1]) {
          console.log((bytes * 8) / 1e6 / (performance.now() - start));
          setTimeout(() => process.exit(0), 100);
          return;
        }
      }
    }
  };
  console.log(`${local.host}:${local.port}`);
} else {
  const [host, port] = where.split(':');
  const peer = { host, port: Number(port) };
  // An IP address is never matched with a certificate: only the chain is checked.
  connection = quiche.Connection.connect(null, randomBytes(quiche.MAX_CONN_ID_LEN), local, peer, config);
  const chunk = Buffer.alloc(65_536, 7);
  let end = 0;
  let done = false;
  onRound = () => {
    if (connection.isClosed()) process.exit(0);
    if (!connection.isEstablished() || done) return;
    if (end === 0) end = performance.now() + Number(seconds) * 1000;
    for (let i = 0; i < 64; i++) {
      if (performance.now() >= end) {
        connection.streamSend(0, Buffer.alloc(0), true);
        done = true;
        return;
      }
      const taken = connection.streamSend(0, chunk, false) ?? 0;
      if (taken < chunk.length) return;
    }
  };
  flush();
}
