/** What shells take as it is. */
const PLAIN = /^[\w@%+=:,./-]+$/;

/**
 * A text as one word of a command that people copy. It may come from a client, an upstream, or a link that somebody was
 * sent: a shell must see nothing in it but the text, and a terminal no keys.
 */
export function shellWord(text: string): string {
  const visible = text.replace(/[\p{Cc}\p{Cf}]/gu, '');
  return PLAIN.test(visible) ? visible : `'${visible.replaceAll("'", String.raw`'\''`)}'`;
}
