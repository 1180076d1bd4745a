// Edge: a request's body on its way to the service. A stream of its own: its end or its destruction must not take the caller's connection
// along, which still has to carry the answer.

import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';

export class RequestBody extends Readable {
  bytes = 0;

  constructor(
    private readonly request: IncomingMessage,
    private readonly limit: number,
    private readonly onTooLarge: () => void,
  ) {
    super({ highWaterMark: 64 * 1024 });
    request.on('data', this.onChunk);
    request.on('end', this.onEnd);
    request.on('close', this.onClosed);
    request.on('error', this.onFailed);
    request.pause();
  }

  override _read(): void {
    this.request.resume();
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.request.off('data', this.onChunk);
    this.request.off('end', this.onEnd);
    this.request.off('close', this.onClosed);
    // The 'error' listener stays: a caller that goes away now is nobody's fault.
    callback(error);
  }

  private readonly onChunk = (chunk: Buffer): void => {
    this.bytes += chunk.length;
    if (this.bytes > this.limit) {
      this.onTooLarge();
      return;
    }
    if (!this.push(chunk)) this.request.pause();
  };

  private readonly onEnd = (): void => {
    this.push(null);
  };

  private readonly onClosed = (): void => {
    if (!this.readableEnded && !this.request.complete) this.destroy(new Error('the caller went away'));
  };

  private readonly onFailed = (error: Error): void => {
    this.destroy(error);
  };
}
