// The floor of links-fleet.ts: a TLS server with nothing behind it, in a process of its own: links-bare.ts PORT PKIDIR. Asks for
// certificates and says a byte once it has one, as little as a hub could do. Answers `cpu` with what it has used.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import tls from 'node:tls';
import { hubCpu } from './links-cpu.js';

const [port, pki] = process.argv.slice(2);
const pem = (file: string) => readFileSync(join(pki!, file), 'utf8');
const server = tls.createServer({
  ca: pem('ca.crt'),
  cert: pem('cloud.crt'),
  key: pem('cloud.key'),
  requestCert: true,
  rejectUnauthorized: true,
  minVersion: 'TLSv1.3',
  noDelay: true,
});
server.on('secureConnection', (socket) => {
  socket.on('error', () => {});
  socket.resume();
  socket.write('.');
});
server.listen(Number(port), '127.0.0.1', () => process.send?.('up'));
process.on('message', () => process.send?.(hubCpu()));
process.on('disconnect', () => process.exit(0));
