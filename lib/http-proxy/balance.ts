// Core: which of several instances takes the next request: the one with the fewest in progress among the healthy, in turn among equals.
// With none healthy all are tried: a wrong verdict must not take the service away.

export interface Candidate {
  readonly healthy: boolean;
  readonly active: number;
}

export class Balancer {
  private turn = 0;

  pick<T extends Candidate>(candidates: readonly T[], not: ReadonlySet<T> = NONE as ReadonlySet<T>): T | null {
    return this.among(candidates, not, true) ?? this.among(candidates, not, false);
  }

  private among<T extends Candidate>(candidates: readonly T[], not: ReadonlySet<T>, healthyOnly: boolean): T | null {
    let best: T | null = null;
    const n = candidates.length;
    for (let i = 0; i < n; i++) {
      const candidate = candidates[(this.turn + i) % n]!;
      if ((healthyOnly && !candidate.healthy) || not.has(candidate)) continue;
      if (best === null || candidate.active < best.active) best = candidate;
    }
    if (n > 0) this.turn = (this.turn + 1) % n;
    return best;
  }
}

const NONE: ReadonlySet<never> = new Set();
