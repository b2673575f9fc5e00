import { describe, expect, it } from 'vitest';
import { ociErrorOf, UpstreamFailure, type UpstreamFailureKind } from './failures.ts';

describe('the error for a client', () => {
  it.each<[UpstreamFailureKind, string, number]>([
    ['unknown', 'MANIFEST_UNKNOWN', 404],
    ['denied', 'MANIFEST_UNKNOWN', 404],
    ['refused', 'MANIFEST_UNKNOWN', 404],
    ['limited', 'TOOMANYREQUESTS', 429],
    ['unavailable', 'UNAVAILABLE', 503],
    ['invalid', 'UPSTREAM_INVALID', 502],
  ])('of %s is %s', (kind, code, status) => {
    const error = ociErrorOf(new UpstreamFailure(kind, 'docker.io/library/nginx: …'), 'MANIFEST_UNKNOWN');
    expect([error.code, error.status]).toEqual([code, status]);
  });

  it('is exactly the same for something denied as for something unknown', () => {
    const [unknown, denied] = (['unknown', 'denied'] as const).map(kind =>
      JSON.stringify(ociErrorOf(new UpstreamFailure(kind, `${kind} of a secret name`), 'BLOB_UNKNOWN')),
    );
    expect(denied).toBe(unknown);
  });

  it('for a rate limit says when to come back, never too early', () => {
    const error = ociErrorOf(new UpstreamFailure('limited', 'x', { retryAfterMs: 1_001 }), 'BLOB_UNKNOWN');
    expect(error.headers).toEqual({ 'Retry-After': '2' });
  });
});
