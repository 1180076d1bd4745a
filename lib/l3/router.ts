// The router: one VRF per tenant. There is no path from one VRF to another.

import { KubeBusError, SlabPool } from '../core/index.js';
import { CUT_SLAB_BYTES } from './cutter.js';
import { Vrf, type VrfLimits } from './vrf.js';

export interface RouterOptions {
  /** Runs `fn` soon, but not inside the call. **Default:** queueMicrotask. */
  readonly defer?: (fn: () => void) => void;
  readonly limits?: Partial<VrfLimits>;
}

export class Router {
  private readonly byName = new Map<string, Vrf>();
  private readonly slabs = new SlabPool(CUT_SLAB_BYTES, 4);
  private readonly options: RouterOptions;

  constructor(options: RouterOptions = {}) {
    this.options = options;
  }

  get vrfs(): readonly Vrf[] {
    return [...this.byName.values()];
  }

  vrf(name: string): Vrf | undefined {
    return this.byName.get(name);
  }

  /** Throws ERR_INVALID_ARGUMENT where the name is taken. */
  addVrf(name: string): Vrf {
    if (this.byName.has(name)) throw new KubeBusError('ERR_INVALID_ARGUMENT', `there is a VRF ${name} already`);
    const { defer = queueMicrotask, limits = {} } = this.options;
    const vrf = new Vrf({ name, defer, limits, slabs: this.slabs });
    this.byName.set(name, vrf);
    return vrf;
  }

  removeVrf(name: string): boolean {
    return this.byName.delete(name);
  }
}
