import type { Lease } from '../lib/lease.ts';

/** How a Lease is given back: its work is done, or waits for the next holder. */
export type GivenBack = 'released' | 'set aside';

/** A Lease of this process. */
export class OwnLease implements Lease {
  readonly key: string;
  readonly epoch: number;
  readonly left: Lease['left'];
  readonly confirm: Lease['confirm'];
  /** Whether it is known to be lost. */
  isLost = false;

  constructor(
    key: string,
    { epoch, left }: Pick<Lease, 'epoch' | 'left'>,
    confirm: () => Promise<void> | undefined,
  ) {
    this.key = key;
    this.epoch = epoch;
    this.left = left;
    this.confirm = confirm;
  }
}
