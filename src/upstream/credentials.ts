import type { Credential } from '../oci/credential.ts';

/** The `Authorization` header of HTTP Basic (RFC 7617), in UTF-8 as Docker sends it. */
export function basicAuthorization({ username, password }: Credential): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}
