// Edge: datagrams between the stack and the application: bounded as SO_RCVBUF bounds them, and told in a tick of their own.

import type { RemoteInfo } from './dgram-options.js';

export interface InboxOwner {
  isOpen(): boolean;
  /** A listener of the application may throw in here. */
  deliver(message: Buffer, info: RemoteInfo): void;
  /** After what was there has been told: an error that ICMP has brought, perhaps. */
  delivered(): void;
}

export class DgramInbox {
  private received: { message: Buffer; info: RemoteInfo }[] = [];
  private bytes = 0;
  private scheduled = false;

  constructor(
    private readonly owner: InboxOwner,
    public limit: number,
  ) {}

  /** As SO_RCVBUF: what does not fit is lost. At least one always fits. */
  add(message: Buffer, info: RemoteInfo): void {
    if (this.bytes > 0 && this.bytes + message.length > this.limit) return;
    this.received.push({ message, info });
    this.bytes += message.length;
    this.deliverSoon();
  }

  deliverSoon(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    process.nextTick(this.run);
  }

  clear(): void {
    this.received = [];
    this.bytes = 0;
  }

  private readonly run = (): void => {
    this.scheduled = false;
    const { owner, received: batch } = this;
    this.clear();
    let i = 0;
    try {
      while (i < batch.length && owner.isOpen()) {
        const { message, info } = batch[i++]!;
        owner.deliver(message, info);
      }
      owner.delivered();
    } finally {
      // A listener threw: the others are not lost.
      if (i < batch.length && owner.isOpen()) {
        this.received = batch.slice(i).concat(this.received);
        this.bytes = this.received.reduce((sum, r) => sum + r.message.length, 0);
        this.deliverSoon();
      }
    }
  };
}
