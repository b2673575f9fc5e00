import { STATUS_CODES } from 'node:http';
import { printable } from './warning.ts';

/** So that proxies with small buffers for headers (nginx: 4 KiB) pass on the response. */
const MAX_LENGTH = 512;

/**
 * The reason phrase of an error response (RFC 9112 §4): the usual one and why. It is all that containerd 1 shows of any error,
 * since it asks by HEAD and reads no body, and Docker of 5xx. Characters that must not be in it are replaced.
 */
export function reasonPhrase(status: number, reason: string): string {
  const text = `${STATUS_CODES[status] ?? 'Error'}: ${printable(reason)}`;
  return text.length > MAX_LENGTH ? `${text.slice(0, MAX_LENGTH - 3)}...` : text;
}
