/** Clients may ignore all warnings of a response that are longer together (distribution spec, "Warnings"). */
const MAX_BYTES = 4096;

/**
 * The value of a `Warning` header that clients show to people (distribution spec, "Warnings"): podman and skopeo print it,
 * and of an answer with 5xx or 429 nothing else. Characters that a header must not have are replaced.
 */
export function warning(text: string): string {
  const quoted = printable(text).replaceAll(/["\\]/g, String.raw`\$&`);
  const [before, after] = ['299 - "', '"'];
  const fitting = quoted.slice(0, MAX_BYTES - before.length - after.length);
  // A backslash that lost what it escapes would escape the quote.
  return before + fitting.replace(/(?<!\\)((?:\\\\)*)\\$/, '$1') + after;
}

/** The text with `?` for everything but printable ASCII, which is all that headers and status lines may have. */
export function printable(text: string): string {
  return text.replaceAll(/[^\x20-\x7e]/g, '?');
}
