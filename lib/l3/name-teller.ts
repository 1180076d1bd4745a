// Core: tells a tenant's nodes the names that they have not got (name-book.ts), in turns of bounded size.

import type { NamesKnown } from './control-codec.js';
import type { NameBook } from './name-book.js';

/** A node that is told. */
export interface Listener {
  send(message: Uint8Array): void;
}

/** How far a listener has the list, of which generation of the book. */
interface Place {
  at: number;
  generation: number;
}

export interface NameTellerOptions {
  readonly book: NameBook;
  readonly bytesPerTurn: number;
  /** Begins the next turn soon, but not inside the call. */
  readonly defer: (turn: () => void) => void;
}

export class NameTeller {
  private readonly places = new Map<Listener, Place>();
  /** Bytes that may be sent yet in this turn. */
  private budget: number;
  /** Who begins the next turn, counted. */
  private first = 0;
  private scheduled = false;

  constructor(private readonly options: NameTellerOptions) {
    this.budget = options.bytesPerTurn;
  }

  /** From now on this one is told; `known` is what it says it has. */
  add(listener: Listener, known: NamesKnown | undefined): void {
    const { book } = this.options;
    const at = known === undefined ? 0 : book.cursor(known.count, known.digest);
    this.places.set(listener, { at, generation: book.generation });
    if (!this.tell(listener)) this.soon();
  }

  remove(listener: Listener): void {
    this.places.delete(listener);
  }

  /** The addresses of a node, none where it was forgotten. */
  set(node: string, addresses: readonly Uint8Array[]): void {
    if (this.options.book.set(node, addresses)) this.soon();
  }

  private soon(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    this.options.defer(() => {
      this.scheduled = false;
      this.turn();
    });
  }

  private turn(): void {
    this.budget = this.options.bytesPerTurn;
    const listeners = [...this.places.keys()];
    for (let i = 0; i < listeners.length; i++) {
      const at = (this.first + i) % listeners.length;
      if (this.tell(listeners[at]!)) continue;
      // For whom nothing was left in this turn begins the next.
      this.first = at;
      return this.soon();
    }
  }

  /** As far as the budget goes; false: there are more. */
  private tell(listener: Listener): boolean {
    const { book } = this.options;
    const place = this.places.get(listener)!;
    if (place.generation !== book.generation) {
      place.generation = book.generation;
      place.at = 0;
    }
    while (this.budget > 0) {
      const part = book.next(place.at);
      if (part === null) return true;
      listener.send(part.message);
      place.at = part.to;
      this.budget -= part.message.length;
    }
    return place.at === book.count;
  }
}
