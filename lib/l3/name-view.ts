// Core: whose addresses are whose in the tenant, as a node has it from the cloud (name-book.ts, which draws the list). What arrives is
// kept as it came and decoded when somebody asks: most nodes of a large tenant never look at most names.

import { addressKey } from './address.js';
import { decodeNames, type NameEntry, type NamesKnown, type NamesUpdate } from './control-codec.js';

export interface NameViewLimits {
  /** Bytes of a list, and entries of it. */
  readonly bytes: number;
  readonly entries: number;
}

/** What became of a message. 'gap': it does not go on where we are; the next Register says where that is. */
export type NamesOutcome = 'taken' | 'gap' | 'beyond-limit';

class Names {
  known: NamesKnown = { count: 0, digest: new Uint8Array(0) };
  /** Lists that nobody has asked for yet. */
  private raw: Uint8Array[] = [];
  private bytes = 0;
  /** Lists that were none. */
  malformed = 0;
  private readonly addresses = new Map<string, readonly Uint8Array[]>();
  private readonly owners = new Map<string, string>();

  add(update: NamesUpdate, limits: NameViewLimits): NamesOutcome {
    if (update.from !== this.known.count || update.to <= update.from) return 'gap';
    if (this.bytes + update.list.length > limits.bytes || update.to > limits.entries) return 'beyond-limit';
    this.bytes += update.list.length;
    this.raw.push(update.list);
    this.known = { count: update.to, digest: update.digest };
    return 'taken';
  }

  addressesOf(node: string): readonly Uint8Array[] {
    this.read();
    return this.addresses.get(node) ?? [];
  }

  nodeOf(address: Uint8Array): string | undefined {
    this.read();
    return this.owners.get(addressKey(address));
  }

  entries(): NameEntry[] {
    this.read();
    return [...this.addresses].map(([node, addresses]) => ({ node, addresses }));
  }

  private read(): void {
    for (const list of this.raw.splice(0)) {
      const entries = decodeNames(list);
      if (entries === null) this.malformed++;
      for (const { node, addresses } of entries ?? []) {
        for (const address of this.addresses.get(node) ?? []) {
          // An address may have gone to another node before this one got its new one.
          if (this.owners.get(addressKey(address)) === node) this.owners.delete(addressKey(address));
        }
        this.addresses.delete(node);
        if (addresses.length > 0) this.addresses.set(node, addresses);
        for (const address of addresses) this.owners.set(addressKey(address), node);
      }
    }
  }
}

export class NameView {
  private names = new Names();
  /** A list that begins anew and is not complete: what was known is good until it is. */
  private next: Names | null = null;

  constructor(private readonly limits: NameViewLimits) {}

  /** What the next Register says. */
  get known(): NamesKnown {
    return this.names.known;
  }

  /** Lists of the cloud that could not be read. */
  get malformed(): number {
    return this.names.malformed;
  }

  handle(update: NamesUpdate): NamesOutcome {
    if (update.from === 0) this.next = new Names();
    const outcome = (this.next ?? this.names).add(update, this.limits);
    if (this.next === null || outcome === 'gap') return outcome;
    // A list that is too long stays as far as it fits. The first one is of use from its first part on.
    if (update.more && outcome === 'taken' && this.names.known.count > 0) return outcome;
    this.names = this.next;
    this.next = null;
    return outcome;
  }

  linkDown(): void {
    this.next = null;
  }

  addressesOf(node: string): readonly Uint8Array[] {
    return this.names.addressesOf(node);
  }

  nodeOf(address: Uint8Array): string | undefined {
    return this.names.nodeOf(address);
  }

  entries(): NameEntry[] {
    return this.names.entries();
  }
}
