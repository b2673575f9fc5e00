import type { News } from './news.ts';

/** The news of two processes, which hear each other at once. */
export function newsOfTwo<T>(): readonly [News<T>, News<T>] {
  const listeners = [new Set<(news: T) => void>(), new Set<(news: T) => void>()] as const;
  const of = (own: number): News<T> => ({
    tell: news => listeners[1 - own]?.forEach(listener => listener(structuredClone(news))),
    listen: listener => {
      listeners[own]?.add(listener);
      return () => void listeners[own]?.delete(listener);
    },
  });
  return [of(0), of(1)];
}
