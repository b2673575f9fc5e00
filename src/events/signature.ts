import { createHash, createHmac } from 'node:crypto';

const ENCODED = 'whsec_';

/**
 * The headers by which a receiver knows that a request is from us, and is not an old one: those of Standard Webhooks. A key
 * that begins with `whsec_` is base64, any other is taken as it is. The same body has the same id.
 */
export function signatureHeaders(
  body: string,
  key: string,
  nowMs: number,
): Readonly<Record<'webhook-id' | 'webhook-timestamp' | 'webhook-signature', string>> {
  const id = `msg_${createHash('sha256').update(body).digest('hex').slice(0, 32)}`;
  const timestamp = String(Math.floor(nowMs / 1000));
  const secret = key.startsWith(ENCODED) ? Buffer.from(key.slice(ENCODED.length), 'base64') : key;
  const signature = createHmac('sha256', secret).update(`${id}.${timestamp}.${body}`).digest('base64');
  return { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': `v1,${signature}` };
}
