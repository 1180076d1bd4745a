// A camera on an edge, watched in a browser through the cloud's gateway: an MJPEG stream of generated pictures. Run alone, it is the whole
// scene in one process and prints the address to open.

import type http from 'node:http';
import { KubeBusCloud, KubeBusNode } from '../lib/index.js';
import { memoryTransport } from '../transports/memory.js';

/** A picture of one colour as BMP, which browsers take as a part of the stream; no encoder needed. */
export function picture(width: number, height: number, rgb: readonly [number, number, number]): Buffer {
  const row = Math.ceil((width * 3) / 4) * 4;
  const bmp = Buffer.alloc(54 + row * height);
  bmp.write('BM');
  bmp.writeUInt32LE(bmp.length, 2);
  bmp.writeUInt32LE(54, 10);
  bmp.writeUInt32LE(40, 14);
  bmp.writeInt32LE(width, 18);
  bmp.writeInt32LE(height, 22);
  bmp.writeUInt16LE(1, 26);
  bmp.writeUInt16LE(24, 28);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) bmp.set([rgb[2], rgb[1], rgb[0]], 54 + y * row + x * 3);
  }
  return bmp;
}

/** `/` a page, `/stream` the pictures, without end. */
export function camera(framesPerSecond = 10): http.RequestListener {
  return (req, res) => {
    if (req.url !== '/stream') {
      res.writeHead(200, { 'content-type': 'text/html; charset=utf-8' });
      res.end('<!doctype html><title>camera</title><style>body{margin:0}</style><img id="camera" src="stream">');
      return;
    }
    res.writeHead(200, { 'content-type': 'multipart/x-mixed-replace; boundary=frame', 'cache-control': 'no-store' });
    let n = 0;
    const timer = setInterval(() => {
      // A watcher that cannot keep up misses pictures; none are stored for it.
      if (res.writableNeedDrain) return;
      const shade = 128 + ((n++ * 8) % 128);
      const frame = picture(320, 240, [0, shade, 0]);
      res.write(`--frame\r\nContent-Type: image/bmp\r\nContent-Length: ${frame.length}\r\n\r\n`);
      res.write(frame);
      res.write('\r\n');
    }, 1000 / framesPerSecond);
    res.on('close', () => clearInterval(timer));
  };
}

async function main(): Promise<void> {
  const transport = memoryTransport();
  const cloud = await KubeBusCloud.start({
    transports: [transport],
    tenants: { acme: { pools: ['10.80.0.0/16'] } },
    gateways: [{ host: '127.0.0.1', port: Number(process.argv[2] ?? 8080) }],
  });
  const edge = await KubeBusNode.join({ cloud: cloud.addresses, transport, tenant: 'acme', node: 'edge-1' });
  edge.publish('camera', camera(), { public: true });
  console.log(`open http://127.0.0.1:${cloud.gateways[0]!.port}/acme/edge-1/camera/`);
}

if (import.meta.url === `file://${process.argv[1]}`) await main();
