// The kernel's end, in a network namespace: `echo PORT` serves,
// `udp-echo PORT` too, `client HOST PORT BYTES` sends a pattern and checks the echo.
import dgram from 'node:dgram';
import net from 'node:net';

const [mode, ...args] = process.argv.slice(2);
const pattern = (i) => ((i * 131) ^ (i >>> 9)) & 0xff;

if (mode === 'echo') {
  const server = net.createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket).on('error', () => {}));
  server.listen(Number(args[0]), args[1] ?? '::', () => console.log('ready'));
} else if (mode === 'udp-echo') {
  const socket = dgram.createSocket('udp6', (message, from) => socket.send(message, from.port, from.address));
  socket.bind(Number(args[0]), '::', () => console.log('ready'));
} else {
  const [host, port, bytes] = [args[0], Number(args[1]), Number(args[2])];
  const socket = net.connect({ host, port });
  let sent = 0;
  let got = 0;
  const fill = () => {
    while (sent < bytes) {
      const chunk = Buffer.alloc(Math.min(16_384, bytes - sent));
      for (let i = 0; i < chunk.length; i++) chunk[i] = pattern(sent + i);
      sent += chunk.length;
      if (!socket.write(chunk)) return;
    }
    socket.end();
  };
  socket.on('connect', fill);
  socket.on('drain', fill);
  socket.on('data', (data) => {
    for (const byte of data) {
      if (byte !== pattern(got++)) {
        console.log(`wrong byte at ${got - 1}`);
        process.exit(1);
      }
    }
  });
  socket.on('error', (error) => console.log(`error ${error.code}`));
  socket.on('close', () => console.log(got === bytes ? 'good' : `only ${got} of ${bytes}`));
}
