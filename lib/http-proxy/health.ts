// Core: the verdict on one instance from the results of its checks: `fall` failures in a row make it unhealthy, `rise` successes healthy.
// What requests find out counts as well: a connection that is refused is a failed check.

export interface HealthRules {
  /** **Default:** 2. */
  readonly fall: number;
  /** **Default:** 1. */
  readonly rise: number;
}

export class Health {
  private healthyNow = true;
  private streak = 0;

  constructor(private readonly rules: HealthRules = { fall: 2, rise: 1 }) {}

  get healthy(): boolean {
    return this.healthyNow;
  }

  /** True if the verdict changed. */
  handle(ok: boolean): boolean {
    if (ok === this.healthyNow) {
      this.streak = 0;
      return false;
    }
    if (++this.streak < (ok ? this.rules.rise : this.rules.fall)) return false;
    this.streak = 0;
    this.healthyNow = ok;
    return true;
  }
}
