import { signal } from '@preact/signals';

/** How far "5 min ago" may lag. */
const TICK_MS = 10_000;

/** The time that relative times are told from. It stands still while the page is hidden. */
export const nowMs = signal(Date.now());

function tick(): void {
  if (!document.hidden) nowMs.value = Date.now();
}

setInterval(tick, TICK_MS);
document.addEventListener('visibilitychange', tick);
