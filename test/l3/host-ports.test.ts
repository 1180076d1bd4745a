import * as dgram from 'node:dgram';
import { once } from 'node:events';
import * as net from 'node:net';
import test from 'ava';
import { parseAddress } from '../../lib/l3/address.js';
import { beside, boundTo, hostPorts } from '../../lib/l3/host-ports.js';

test('the kernel’s table: addresses of both families, by port and state', (t) => {
  const tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0500500A:1F90 0600500A:0050 01 00000000:00000000 00:00000000 00000000     0        0 2 1`;
  t.deepEqual(boundTo(tcp, 8080, '0A'), [parseAddress('127.0.0.1')]);
  t.deepEqual(boundTo(tcp, 8080, null), [parseAddress('127.0.0.1'), parseAddress('10.80.0.5')]);
  t.deepEqual(boundTo(tcp, 80, null), []);
  const tcp6 = '   0: 000080FD000000000000000005000000:0016 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 3';
  t.deepEqual(boundTo(tcp6, 22, '0A'), [parseAddress('fd80::5')]);
});

test('a range beside the kernel’s: above it, else below it', (t) => {
  t.deepEqual(beside('32768\t60999\n'), [61_000, 65_535]);
  t.deepEqual(beside('32768 65000'), [1_024, 32_767]);
  t.deepEqual(beside('1024 65535'), [61_000, 65_535], 'nothing is left: then as if it were the usual one');
  t.deepEqual(beside(''), [61_000, 65_535]);
});

test('real sockets of this host are seen, on the shared address and on all, not on another', async (t) => {
  if (process.platform !== 'linux') {
    t.pass('only Linux tells');
    return;
  }
  const ports = hostPorts(() => [parseAddress('127.0.0.1')]);
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  t.true(ports.inUse('tcp', null, port));
  t.true(ports.inUse('tcp', parseAddress('127.0.0.1'), port));
  t.false(ports.inUse('tcp', parseAddress('10.80.0.1'), port));
  t.false(ports.inUse('udp', null, port));
  server.close();
  await once(server, 'close');
  t.false(ports.inUse('tcp', null, port));
  const socket = dgram.createSocket('udp4').bind(0);
  await once(socket, 'listening');
  t.true(ports.inUse('udp', parseAddress('10.80.0.1'), socket.address().port), 'bound to any address');
  socket.close();
});
