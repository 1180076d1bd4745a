// TLS handshakes in progress, the oldest first: so many places, and who is slow gives way.

/** A handshake takes a few round trips: who needs longer than this gives way when all places are taken. */
const GIVE_WAY_MS = 1_000;

export class Handshakes {
  private readonly begun = new Map<string, { readonly at: number; readonly cut: () => void }>();

  constructor(readonly limit: number) {}

  /** `remote` names the connection; `cut` ends it. False: no place is free. */
  begin(remote: string, cut: () => void): boolean {
    const now = performance.now();
    if (this.begun.size >= this.limit) {
      const [key, oldest] = this.begun.entries().next().value ?? [];
      if (key === undefined || oldest === undefined || now - oldest.at < GIVE_WAY_MS) return false;
      this.begun.delete(key);
      oldest.cut();
    }
    this.begun.set(remote, { at: now, cut });
    return true;
  }

  end(remote: string): void {
    this.begun.delete(remote);
  }
}
