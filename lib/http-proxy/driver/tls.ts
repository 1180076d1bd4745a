// Edge: the certificate of a gateway, read again when its files change, without a restart.

import { readFileSync, type Stats, unwatchFile, watchFile } from 'node:fs';
import { createSecureContext } from 'node:tls';
import { KubeBusError, type Logger, silentLogger } from '../../core/index.js';

export interface TlsOptions {
  /** Certificate chain: a file that is watched, or the PEM text. */
  readonly cert: string;
  readonly key: string;
  /** How often the files are looked at. **Default:** 2,000. */
  readonly pollMs?: number;
}

interface Pem {
  readonly cert: string;
  readonly key: string;
}

const isPem = (text: string) => text.includes('-----BEGIN');

export class TlsFront {
  private pem: Pem;
  private listener: ((pem: Pem) => void) | null = null;
  private readonly watched: string[];

  /** **Throws** ERR_INVALID_ARGUMENT for files that cannot be read or do not fit together. */
  constructor(
    private readonly source: TlsOptions,
    private readonly logger: Logger = silentLogger,
  ) {
    this.pem = this.read();
    this.watched = [source.cert, source.key].filter((text) => !isPem(text));
  }

  options(): Pem & { minVersion: 'TLSv1.2' } {
    return { ...this.pem, minVersion: 'TLSv1.2' };
  }

  watch(listener: (pem: Pem) => void): void {
    this.listener = listener;
    // Polling: a certificate is replaced by renames and symbolic links, which inotify loses sight of.
    for (const path of this.watched) {
      watchFile(path, { interval: this.source.pollMs ?? 2_000, persistent: false }, this.onChange);
    }
  }

  /** Reads the files now. A pair that does not fit (half replaced) is left for the next look. */
  reload(): boolean {
    try {
      this.pem = this.read();
    } catch (error) {
      this.logger.warn({ err: error }, 'the certificate of the gateway is not usable; the old one stays');
      return false;
    }
    this.listener?.(this.pem);
    this.logger.info({ cert: this.source.cert }, 'the certificate of the gateway was read again');
    return true;
  }

  close(): void {
    for (const path of this.watched) unwatchFile(path, this.onChange);
  }

  private readonly onChange = (now: Stats, before: Stats): void => {
    if (now.mtimeMs !== before.mtimeMs || now.ino !== before.ino) this.reload();
  };

  private read(): Pem {
    const text = (source: string) => {
      const pem = isPem(source) ? source : readFileSync(source, 'utf8');
      // OpenSSL takes an empty text for none, and every handshake would fail.
      if (!isPem(pem)) throw new Error(`${source} is not PEM`);
      return pem;
    };
    try {
      const pem = { cert: text(this.source.cert), key: text(this.source.key) };
      createSecureContext(pem);
      return pem;
    } catch (error) {
      throw new KubeBusError('ERR_INVALID_ARGUMENT', `certificate or key of the gateway: ${(error as Error).message}`, {
        cause: error,
      });
    }
  }
}
