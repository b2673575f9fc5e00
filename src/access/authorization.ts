/** The content of an `Authorization` header (RFC 7617, RFC 6750). Both parts of Basic may be empty. */
export type Authorization =
  | { readonly scheme: 'basic'; readonly username: string; readonly password: string }
  | { readonly scheme: 'bearer'; readonly token: string };

/** A Kubernetes ServiceAccount token as password has some kilobytes; longer headers are ignored. */
export const MAX_AUTHORIZATION_LENGTH = 16 * 1024;

const BASIC = /^basic +([A-Za-z0-9+/]+={0,2}) *$/i;
const BEARER = /^bearer +([\w.~+/-]+=*) *$/i;

/**
 * Parses an `Authorization` header; `undefined` if it is absent, malformed, or of another scheme, none of which proves
 * anything.
 */
export function parseAuthorization(header: string | undefined): Authorization | undefined {
  if (header === undefined || header.length > MAX_AUTHORIZATION_LENGTH) return undefined;
  const token = BEARER.exec(header)?.[1];
  if (token !== undefined) return { scheme: 'bearer', token };
  const encoded = BASIC.exec(header)?.[1];
  if (encoded === undefined) return undefined;
  const text = Buffer.from(encoded, 'base64').toString('utf8');
  const colon = text.indexOf(':');
  if (colon === -1) return undefined;
  return { scheme: 'basic', username: text.slice(0, colon), password: text.slice(colon + 1) };
}
