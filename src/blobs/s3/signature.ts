/**
 * AWS Signature Version 4, with which requests to S3 and STS are authenticated
 * (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html).
 */
import { createHash, createHmac } from 'node:crypto';

/** What signs requests. */
export interface SigningKeys {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** Of temporary keys. */
  readonly sessionToken?: string | undefined;
}

export interface ToSign {
  readonly method: string;
  /** Path and query are encoded already, as they are sent. */
  readonly url: URL;
  /** Besides Host. All of them are signed. */
  readonly headers: Readonly<Record<string, string>>;
  /** The SHA-256 of the body in hex. */
  readonly payloadHash: string;
  readonly region: string;
  readonly service: string;
  /** Epoch ms, by the clock of the service. */
  readonly atMs: number;
}

const ALGORITHM = 'AWS4-HMAC-SHA256';

/** The SHA-256 of no bytes. */
export const EMPTY_HASH = sha256Hex('');

/** The headers of the signed request. */
export function signedHeaders(request: ToSign, keys: SigningKeys): Record<string, string> {
  const { url, headers, payloadHash, atMs } = request;
  const date = amzDate(atMs);
  const all: Record<string, string> = {
    ...Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value])),
    host: url.host,
    'x-amz-content-sha256': payloadHash,
    'x-amz-date': date,
    ...(keys.sessionToken !== undefined && { 'x-amz-security-token': keys.sessionToken }),
  };
  const names = Object.keys(all).sort();
  const scope = scopeOf(date, request.region, request.service);
  const canonical = [
    request.method,
    url.pathname,
    canonicalQuery(url),
    ...names.map(name => `${name}:${all[name]?.trim().replace(/ +/g, ' ')}`),
    '',
    names.join(';'),
    payloadHash,
  ].join('\n');
  const signature = signatureOf(canonical, { date, scope }, keys);
  const { host: _, ...sent } = all;
  const authorization =
    `${ALGORITHM} Credential=${keys.accessKeyId}/${scope}, ` +
    `SignedHeaders=${names.join(';')}, Signature=${signature}`;
  return { ...sent, authorization };
}

/** What a presigned URL is for. */
export interface ToPresign extends Pick<ToSign, 'url' | 'region' | 'service' | 'atMs'> {
  /** How long it is valid, in seconds. */
  readonly expiresS: number;
}

/** A URL with which anybody may GET what `url` names, for a while. */
export function presignedUrl({ url, region, service, atMs, expiresS }: ToPresign, keys: SigningKeys): string {
  const date = amzDate(atMs);
  const scope = scopeOf(date, region, service);
  const parameters = {
    'X-Amz-Algorithm': ALGORITHM,
    'X-Amz-Credential': `${keys.accessKeyId}/${scope}`,
    'X-Amz-Date': date,
    'X-Amz-Expires': String(expiresS),
    ...(keys.sessionToken !== undefined && { 'X-Amz-Security-Token': keys.sessionToken }),
    'X-Amz-SignedHeaders': 'host',
  };
  const signed = new URL(url);
  signed.search = Object.entries(parameters)
    .map(([name, value]) => `${name}=${uriEncode(value)}`)
    .join('&');
  const canonical = [
    'GET',
    signed.pathname,
    canonicalQuery(signed),
    `host:${signed.host}`,
    '',
    'host',
    'UNSIGNED-PAYLOAD',
  ].join('\n');
  return `${signed.href}&X-Amz-Signature=${signatureOf(canonical, { date, scope }, keys)}`;
}

/** `text` with everything encoded but unreserved characters (RFC 3986), as signatures require. */
export function uriEncode(text: string): string {
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    char => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

function scopeOf(date: string, region: string, service: string): string {
  return `${date.slice(0, 8)}/${region}/${service}/aws4_request`;
}

function signatureOf(
  canonical: string,
  { date, scope }: { readonly date: string; readonly scope: string },
  keys: SigningKeys,
): string {
  const toSign = [ALGORITHM, date, scope, sha256Hex(canonical)].join('\n');
  return hmac(signingKey(keys.secretAccessKey, scope), toSign).toString('hex');
}

function canonicalQuery({ search }: URL): string {
  const parameters = search.slice(1).split('&').filter(Boolean);
  return parameters
    .map(parameter => (parameter.includes('=') ? parameter : `${parameter}=`))
    .sort()
    .join('&');
}

/** As `20260102T030405Z`. */
function amzDate(atMs: number): string {
  return new Date(atMs).toISOString().replace(/[-:]|\.\d+/g, '');
}

function signingKey(secret: string, scope: string): Buffer {
  return scope.split('/').reduce((key: Buffer, part) => hmac(key, part), Buffer.from(`AWS4${secret}`));
}

function hmac(key: Buffer, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest();
}

function sha256Hex(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
