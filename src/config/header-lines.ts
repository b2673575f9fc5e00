/** An HTTP header: a token, and visible characters (RFC 9110 §5.1, §5.5). */
const LINE = /^([!#$%&'*+.^_`|~0-9a-z-]+):[ \t]*([\x20-\x7e]+)$/i;

/** What describes the body or the connection, or is set by us. */
const OURS = /^(?:host|connection|content-.*|transfer-encoding|expect|te|trailer|upgrade|webhook-.*)$/;

/**
 * Headers from lines such as `Authorization: Bearer TOKEN`, by name in lower case; empty lines and those that begin with #
 * count for nothing. A problem never quotes a value, which may be a secret.
 */
export function parseHeaderLines(
  text: string,
): { readonly headers: Record<string, string> } | { readonly problem: string } {
  const headers = new Map<string, string>();
  for (const [at, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const [, name = '', value = ''] = LINE.exec(line.trim()) ?? [];
    const key = name.toLowerCase();
    if (key === '')
      return { problem: `line ${at + 1}: expected a header, such as Authorization: Bearer TOKEN` };
    if (OURS.test(key)) return { problem: `line ${at + 1}: ${name} cannot be set here` };
    if (headers.has(key)) return { problem: `line ${at + 1}: ${name} occurs twice` };
    headers.set(key, value);
  }
  return { headers: Object.fromEntries(headers) };
}
