// Where the page is: `#/images?search=alpine&sort=-size`. Everything that a screen shows by choice is in the address, so
// that a link to it, or a reload, shows the same.
import { computed, signal } from '@preact/signals';

export interface Place {
  /** The name of a screen, such as `images`. */
  readonly screen: string;
  readonly params: URLSearchParams;
}

const hash = signal(location.hash);
addEventListener('hashchange', () => {
  hash.value = location.hash;
});

/** The current place; the first screen if the address names none. */
export const place = computed<Place>(() => {
  const [path = '', query = ''] = hash.value.replace(/^#\/?/, '').split('?', 2);
  return { screen: path === '' ? 'overview' : path, params: new URLSearchParams(query) };
});

/** The address of a screen, with those of `params` that have a value. */
export function addressOf(screen: string, params: Readonly<Record<string, string | undefined>> = {}): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params))
    if (value !== undefined && value !== '') query.set(name, value);
  const text = query.toString();
  return text === '' ? `#/${screen}` : `#/${screen}?${text}`;
}

/** One parameter of the current place; empty if it is not given. */
export function param(name: string): string {
  return place.value.params.get(name) ?? '';
}

/** Changes parameters of the current place, without a step in the history: what is typed is no place of its own. */
export function setParams(changes: Readonly<Record<string, string | undefined>>): void {
  const { screen, params } = place.peek();
  history.replaceState(null, '', addressOf(screen, { ...Object.fromEntries(params), ...changes }));
  hash.value = location.hash;
}

/** Goes to a place, as a link does. */
export function goTo(address: string): void {
  location.hash = address.replace(/^#/, '');
}
