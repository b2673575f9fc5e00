/** Whether the texts together contain what is searched for. */
export type Search = (...texts: readonly (string | null)[]) => boolean;

/** What `q` of a list means, in which people type: every word of it, in any case and order. All is found without one. */
export function searchFor(q: string | undefined): Search {
  const words = (q ?? '').toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return () => true;
  return (...texts) => {
    const text = texts.join('\n').toLowerCase();
    return words.every(word => text.includes(word));
  };
}
