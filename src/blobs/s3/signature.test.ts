import { expect, test } from 'vitest';
import { EMPTY_HASH, presignedUrl, signedHeaders, uriEncode } from './signature.ts';

/** The keys, bucket and time of the examples in AWS's documentation of S3 ("Signature Calculations for the Authorization Header"). */
const KEYS = {
  accessKeyId: 'AKIAIOSFODNN7EXAMPLE',
  secretAccessKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY',
};
const AT = { region: 'us-east-1', service: 's3', atMs: Date.UTC(2013, 4, 24) };
const HOST = 'https://examplebucket.s3.amazonaws.com';

function signatureOf(request: Partial<Parameters<typeof signedHeaders>[0]> & { readonly url: URL }): string {
  const whole = { method: 'GET', headers: {}, payloadHash: EMPTY_HASH, ...AT, ...request };
  return /Signature=(.*)/.exec(signedHeaders(whole, KEYS)['authorization'] ?? '')?.[1] ?? '';
}

test.each([
  {
    name: 'GET Object with a range',
    url: new URL(`${HOST}/test.txt`),
    headers: { Range: 'bytes=0-9' },
    signature: 'f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41',
  },
  {
    name: 'PUT Object with an encoded key',
    method: 'PUT',
    url: new URL(`${HOST}/test%24file.text`),
    headers: { Date: 'Fri, 24 May 2013 00:00:00 GMT', 'x-amz-storage-class': 'REDUCED_REDUNDANCY' },
    payloadHash: '44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072',
    signature: '98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd',
  },
  {
    name: 'GET Bucket Lifecycle, a parameter without a value',
    url: new URL(`${HOST}/?lifecycle`),
    signature: 'fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543',
  },
  {
    name: 'List Objects, several parameters',
    url: new URL(`${HOST}/?prefix=J&max-keys=2`),
    signature: '34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7',
  },
])("AWS's example is signed as documented: $name", ({ signature, ...request }) => {
  expect(signatureOf(request)).toBe(signature);
});

test("AWS's example of a presigned URL is signed as documented", () => {
  const url = presignedUrl({ url: new URL(`${HOST}/test.txt`), expiresS: 86_400, ...AT }, KEYS);
  expect(url).toBe(
    `${HOST}/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256` +
      '&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request' +
      '&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host' +
      '&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404',
  );
});

test('the token of temporary keys is sent and signed', () => {
  const request = { method: 'GET', url: new URL(HOST), headers: {}, payloadHash: EMPTY_HASH, ...AT };
  const headers = signedHeaders(request, { ...KEYS, sessionToken: 'token' });
  expect(headers['x-amz-security-token']).toBe('token');
  expect(headers['authorization']).toContain(';x-amz-security-token,');
});

test('a presigned URL has the token of temporary keys, and is signed with it', () => {
  const request = { url: new URL(`${HOST}/test.txt`), expiresS: 300, ...AT };
  const url = (sessionToken: string) =>
    new URL(presignedUrl(request, { ...KEYS, sessionToken })).searchParams;
  const [one, another] = [url('to/ken'), url('other')];
  expect(one.get('X-Amz-Security-Token')).toBe('to/ken');
  expect(one.get('X-Amz-Signature')).not.toBe(another.get('X-Amz-Signature'));
});

test('everything but unreserved characters is encoded', () => {
  expect(uriEncode("a-_.~/b c!'()*ä")).toBe('a-_.~%2Fb%20c%21%27%28%29%2A%C3%A4');
});
