import type { IncomingMessage } from 'node:http';

/** What of a request to another replica is neither in its path nor its body. */
const NAME = 'entrepot-call';

/** The header with any text. */
export function callHeader(text: string): Readonly<Record<string, string>> {
  return { [NAME]: encodeURIComponent(text) };
}

/** Its text. Throws if it cannot be read. */
export function callIn({ headers }: Pick<IncomingMessage, 'headers'>): string {
  return decodeURIComponent(String(headers[NAME]));
}
