import { getEventListeners } from 'node:events';

/** How much hangs on a signal: its listeners, and what Node keeps there of the signals that were derived from it. */
export function tracesOn(signal: AbortSignal): number {
  const symbol = Object.getOwnPropertySymbols(signal).find(
    ({ description }) => description === 'kDependantSignals',
  );
  const derived: { readonly size: number } | undefined = symbol && Reflect.get(signal, symbol);
  return getEventListeners(signal, 'abort').length + (derived?.size ?? 0);
}
