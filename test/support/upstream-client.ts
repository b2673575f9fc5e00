// Clients of fake upstreams for the tests of `src/upstream/`, and the people they ask for.
import { afterEach } from 'vitest';
import type { Credential } from '../../src/oci/credential.ts';
import { UpstreamFailure } from '../../src/upstream/failures.ts';
import { type Ask, Upstream, type UpstreamOptions } from '../../src/upstream/upstream.ts';
import { FakeUpstream, type FakeUpstreamOptions } from './fake-upstream.ts';

const cleanups: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

/** Stops when the test ends, as all that is made here. */
export async function fake(options: FakeUpstreamOptions = {}): Promise<FakeUpstream> {
  const upstream = await FakeUpstream.start(options);
  cleanups.push(() => upstream.stop());
  return upstream;
}

export function client(url: string, options: Partial<UpstreamOptions> = {}): Upstream {
  const upstream = new Upstream({ name: 'fake', url, ...options });
  cleanups.push(() => upstream.close());
  return upstream;
}

export const anonymous: Ask = { credential: undefined };
export const alice: Credential = { username: 'alice', password: 'alices-secret', id: 'id-of-alice' };
export const bob: Credential = { username: 'bob', password: 'bobs-secret', id: 'id-of-bob' };
export const users = {
  alice: { password: alice.password, repositories: ['team/app'] },
  bob: { password: bob.password, repositories: ['team/other'] },
};

/** All of a body. */
export async function read(body: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of body) pieces.push(Uint8Array.from(piece));
  return Buffer.concat(pieces);
}

/** What a call to an upstream fails with; anything but an UpstreamFailure fails the test. */
export async function failure(promise: Promise<unknown>): Promise<UpstreamFailure> {
  const error: unknown = await promise.then(
    value => new Error(`succeeded with ${JSON.stringify(value)}`),
    (reason: unknown) => reason,
  );
  if (!(error instanceof UpstreamFailure)) throw error;
  return error;
}
