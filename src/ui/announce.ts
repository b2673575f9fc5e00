// What happened, said once: shown for some seconds at the bottom, and read out by screen readers.
import { signal } from '@preact/signals';

export interface Announcement {
  readonly text: string;
  readonly kind: 'done' | 'failed';
}

const SHOWN_MS = 8_000;

export const announcement = signal<Announcement | undefined>(undefined);

let timer: ReturnType<typeof setTimeout> | undefined;

/** Replaces the one before. */
export function announce(text: string, kind: Announcement['kind'] = 'done'): void {
  announcement.value = { text, kind };
  clearTimeout(timer);
  timer = setTimeout(() => {
    announcement.value = undefined;
  }, SHOWN_MS);
}
