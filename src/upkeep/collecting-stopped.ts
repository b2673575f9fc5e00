import { type CollectingStop, stopText, whyNotCollected } from '../metadata/store-identity.ts';
import type { Stores } from './stores.ts';

/** Nothing was collected, because the index may be incomplete. The message says why, and what to do. */
export class CollectingStopped extends Error {
  override readonly name = 'CollectingStopped';

  constructor(stop: CollectingStop) {
    super(stopText(stop));
  }
}

/** Throws CollectingStopped if the index may be incomplete. */
export async function requireCollecting({ metadata }: Pick<Stores, 'metadata'>): Promise<void> {
  const stop = await whyNotCollected(metadata);
  if (stop !== undefined) throw new CollectingStopped(stop);
}
