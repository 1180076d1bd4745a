// Edge: the CAs in a cloud's state folder. One, most of the time; while it is replaced (`kubebus ca rotate`, docs/guides/joining.md) two:
//
//   ca.crt, ca.key             has signed the cloud's own certificate; new tokens pin it
//   ca-next.crt, ca-next.key   from `begin` on: signs the nodes; whoever renews is told to trust it too
//   ca-old.crt                 from `switch` to `finish`: what it signed still counts

import { X509Certificate } from 'node:crypto';
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type * as x509 from '@peculiar/x509';
import { KubeBusError } from '../../core/index.js';
import { type Authority, createAuthority, openAuthority, signedBy } from './pki.js';

export class Authorities {
  private constructor(
    readonly current: Authority,
    private readonly next: Authority | null,
    /** PEM. */
    private readonly old: string | null,
  ) {}

  /** Makes a CA where there is none. Throws ERR_STATE. */
  static async open(dir: string): Promise<Authorities> {
    try {
      const current = (await pair(dir, 'ca')) ?? (await firstOne(dir));
      return new Authorities(current, await pair(dir, 'ca-next'), await textOf(join(dir, 'ca-old.crt')));
    } catch (cause) {
      throw failure(dir, cause);
    }
  }

  /** What signs nodes. */
  get issuer(): Authority {
    return this.next ?? this.current;
  }

  /** PEM of all that count. */
  get bundle(): string {
    return [this.current.cert, this.next?.cert, this.old].filter((text) => text != null).join('');
  }

  /** DER of those beside the current one. */
  get others(): Uint8Array[] {
    return [this.next?.cert, this.old].flatMap((text) => (text == null ? [] : [new X509Certificate(text).raw]));
  }

  /** The certificate if one of them signed it, whatever its dates; otherwise null. */
  async verify(der: Uint8Array): Promise<x509.X509Certificate | null> {
    for (const pem of [this.current.cert, this.next?.cert, this.old]) {
      const found = pem == null ? null : await signedBy(pem, der);
      if (found !== null) return found;
    }
    return null;
  }
}

export type RotationStep = 'begin' | 'switch' | 'finish';

/**
 * One step of replacing the CA, in the folder of a cloud that is started again afterwards. `switch` throws ERR_STATE while nodes that may
 * come back have not been told of the new CA, unless `force`. Each step may be run again after a crash in its middle.
 */
export async function rotateAuthority(dir: string, step: RotationStep, force = false): Promise<void> {
  const at = (name: string) => join(dir, name);
  const wrong = (what: string) => new KubeBusError('ERR_STATE', `the CA in ${dir}: ${what}`);
  try {
    if ((await textOf(at('ca.crt'))) === null) throw wrong('there is none to be replaced');
    if (step === 'begin') {
      if ((await textOf(at('ca-next.crt'))) !== null) throw wrong('replacing it has begun already');
      if ((await textOf(at('ca-old.crt'))) !== null) throw wrong('the last replacement is not finished');
      const made = await createAuthority(`KubeBus CA ${new Date().toISOString()}`);
      await writeDurably(at('ca-next.key'), made.key, 0o600);
      await writeDurably(at('ca-next.crt'), made.cert, 0o644);
    } else if (step === 'switch') {
      const next = await textOf(at('ca-next.crt'));
      if (next === null) throw wrong('there is no next one: begin first');
      const missing = force ? [] : await untold(dir, next);
      if (missing.length > 0) {
        const names = `${missing.slice(0, 10).join(', ')}${missing.length > 10 ? ', ...' : ''}`;
        throw wrong(
          `${missing.length} nodes have not renewed since and would need a token to come back (${names}): wait, revoke them, or force it`,
        );
      }
      if ((await textOf(at('ca-old.crt'))) === null)
        await writeDurably(at('ca-old.crt'), (await textOf(at('ca.crt')))!, 0o644);
      // After a crash in between the key is there already, and the old certificate does not fit it: said when the cloud starts.
      if ((await textOf(at('ca-next.key'))) !== null) await rename(at('ca-next.key'), at('ca.key'));
      await rename(at('ca-next.crt'), at('ca.crt'));
    } else {
      if ((await textOf(at('ca-next.crt'))) !== null) throw wrong('switch to the next one first');
      await rm(at('ca-old.crt'), { force: true });
    }
  } catch (cause) {
    throw cause instanceof KubeBusError ? cause : failure(dir, cause);
  }
}

/** Nodes that are not revoked and whose newest certificate is not by the CA `next`. */
async function untold(dir: string, next: string): Promise<string[]> {
  const record = JSON.parse((await textOf(join(dir, 'joins.json'))) ?? '{"nodes":[]}') as {
    nodes: { tenant: string; node: string; revoked: number | null; serials: { authority?: string }[] }[];
  };
  const told = new X509Certificate(next).fingerprint256;
  const behind = record.nodes.filter((n) => n.revoked === null && n.serials.at(-1)?.authority !== told);
  return behind.map((n) => `${n.tenant}/${n.node}`);
}

async function pair(dir: string, name: string): Promise<Authority | null> {
  const [cert, key] = [await textOf(join(dir, `${name}.crt`)), await textOf(join(dir, `${name}.key`))];
  // A key alone: a crash came before the certificate, and nobody has it.
  if (cert === null) return null;
  // A certificate without its key is no half-made CA (the key is written first): making another would strand all nodes.
  if (key === null)
    throw new Error(
      name === 'ca'
        ? 'ca.key is missing: restore it, or move ca.crt away to start anew'
        : `${name}.key is missing: restore it, or run 'kubebus ca rotate switch' again if that was interrupted`,
    );
  return openAuthority(cert, key);
}

async function firstOne(dir: string): Promise<Authority> {
  const made = await createAuthority('KubeBus CA');
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await writeDurably(join(dir, 'ca.key'), made.key, 0o600);
  await writeDurably(join(dir, 'ca.crt'), made.cert, 0o644);
  return made;
}

async function textOf(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

async function writeDurably(path: string, text: string, mode: number): Promise<void> {
  const fresh = `${path}.new`;
  await rm(fresh, { force: true });
  const file = await open(fresh, 'wx', mode);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(fresh, path);
}

function failure(dir: string, cause: unknown): KubeBusError {
  return new KubeBusError('ERR_STATE', `the CA in ${dir}: ${(cause as Error).message}`, { cause });
}
