// Light or dark: as the system has it, until somebody chooses. The choice is kept in the browser.
import { effect, signal } from '@preact/signals';

const THEMES = ['system', 'light', 'dark'] as const;
export type Theme = (typeof THEMES)[number];

export const theme = signal<Theme>(THEMES.find(each => each === remembered('theme')) ?? 'system');

/** Whether single keys do something, which people who dictate or slip do not want. */
export const hasShortcuts = signal(remembered('shortcuts') !== 'off');

effect(() => {
  document.documentElement.dataset['theme'] = theme.value;
  remember('theme', theme.value);
});
effect(() => remember('shortcuts', hasShortcuts.value ? 'on' : 'off'));

/** The next one in the circle that the switch goes through. */
export function nextTheme(current: Theme): Theme {
  return THEMES[(THEMES.indexOf(current) + 1) % THEMES.length] ?? 'system';
}

/** Browsers may refuse storage; then nothing is remembered. */
function remembered(name: string): string | null {
  try {
    return localStorage.getItem(`entrepot.${name}`);
  } catch {
    return null;
  }
}

function remember(name: string, value: string): void {
  try {
    localStorage.setItem(`entrepot.${name}`, value);
  } catch {
    // As above.
  }
}
