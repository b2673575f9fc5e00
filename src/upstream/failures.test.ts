import { describe, expect, it } from 'vitest';
import { HttpFailure } from '../lib/http-failure.ts';
import {
  ociErrorOf,
  UpstreamFailure,
  type UpstreamFailureKind,
  type UpstreamFailureOptions,
} from './failures.ts';

/** What only operators may know. */
const SECRET = 'mirror.example/team/app blobs/sha256:1: cannot connect to 10.0.0.7:5000: ECONNREFUSED';

describe('the error for a client', () => {
  it.each<[UpstreamFailureKind, string, number]>([
    ['unknown', 'MANIFEST_UNKNOWN', 404],
    ['denied', 'MANIFEST_UNKNOWN', 404],
    ['refused', 'MANIFEST_UNKNOWN', 404],
    ['limited', 'TOOMANYREQUESTS', 429],
    ['unavailable', 'UNAVAILABLE', 503],
    ['invalid', 'UPSTREAM_INVALID', 502],
  ])('of %s is %s', (kind, code, status) => {
    const error = ociErrorOf(new UpstreamFailure(kind, 'it failed'), 'MANIFEST_UNKNOWN', 'docker.io');
    expect([error.code, error.status]).toEqual([code, status]);
  });

  it('is exactly the same for something denied as for something unknown', () => {
    const [unknown, denied] = (['unknown', 'denied'] as const).map(kind =>
      JSON.stringify(ociErrorOf(new UpstreamFailure(kind, `${kind} of a name`), 'BLOB_UNKNOWN', 'docker.io')),
    );
    expect(denied).toBe(unknown);
  });

  it('for a rate limit says when to come back, never too early', () => {
    const failure = new UpstreamFailure('limited', 'x', { retryAfterMs: 1_001 });
    const error = ociErrorOf(failure, 'BLOB_UNKNOWN', 'docker.io');
    expect(error.headers).toEqual({ 'Retry-After': '2' });
  });

  it.each<[string, UpstreamFailureKind, UpstreamFailureOptions]>([
    ['mirror.example cannot be reached', 'unavailable', { cause: new HttpFailure('unreachable', SECRET) }],
    ['mirror.example did not answer in time', 'unavailable', { cause: new HttpFailure('timeout', SECRET) }],
    ['the connection to mirror.example broke off', 'unavailable', { obstacle: 'broken' }],
    [
      'mirror.example named a host that this registry does not contact',
      'invalid',
      { cause: new UpstreamFailure('invalid', SECRET, { cause: new HttpFailure('forbidden', SECRET) }) },
    ],
    ['mirror.example responded 503', 'unavailable', { status: 503 }],
    ['mirror.example cannot answer at the moment', 'unavailable', { status: 403 }],
    ['mirror.example sent an invalid response', 'invalid', { status: 200 }],
    ['mirror.example limits the rate of requests', 'limited', { status: 429 }],
    ["upstream refused Entrepot's credentials for mirror.example", 'lockedOut', { status: 401 }],
  ])('says "%s", and only operators are told where', (told, kind, options) => {
    const error = ociErrorOf(new UpstreamFailure(kind, SECRET, options), 'BLOB_UNKNOWN', 'mirror.example');
    expect(error.message).toBe(told);
    expect(JSON.stringify(error)).not.toContain('10.0.0.7');
    expect(error.reason).toContain(SECRET);
  });

  it('is the same when the failure is remembered', () => {
    const failure = new UpstreamFailure('unavailable', SECRET, { cause: new HttpFailure('timeout', SECRET) });
    const recalled = new UpstreamFailure(failure.kind, failure.message, {
      isRecalled: true,
      retryAfterMs: 4_100,
      cause: failure,
    });
    expect(ociErrorOf(recalled, 'BLOB_UNKNOWN', 'mirror.example').message).toBe(
      'upstream is not asked again for 5s: mirror.example did not answer in time',
    );
  });
});
