// Random histories of Secrets, proofs, refusals, imports and time, against a model of who may read what.
import * as fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { AccessWorld, SENDER, SERVER } from '../../test/support/access-world.ts';
import { SEED } from '../../test/support/chance.ts';
import { basic, type Login } from '../../test/support/tenants.ts';
import { digestOf } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { tenantGrantee } from '../grants/grants.ts';
import { parseScopes } from './scope.ts';

const REPOSITORY = { upstream: 'up.example', name: 'acme/app' };
/** What is held of it. */
const CONTENTS = ['first', 'second'].map(text => ({
  digest: digestOf(Buffer.from(text)),
  size: text.length,
}));
const HOUR_MS = 3_600_000;
const TENANTS = ['team-a', 'team-b'] as const;
/** For the upstream; both tenants may hold either. Few, so that histories meet. */
const UPSTREAM_LOGINS: readonly Login[] = [
  ['u0', 'p0'],
  ['u1', 'p1'],
];
/** For this registry, one for each tenant. */
const OUR_LOGINS: readonly Login[] = [
  ['team-a-robot', 'secret-a'],
  ['team-b-robot', 'secret-b'],
];
const ALL_LOGINS = [...UPSTREAM_LOGINS, ...OUR_LOGINS];

/** Without any content a repository would go, with what was proved of it. */
const KEPT = { digest: digestOf(Buffer.from('kept')), size: 4 };

type Step =
  | { readonly do: 'hold'; readonly tenant: number; readonly login: number; readonly isHeld: boolean }
  | { readonly do: 'restore'; readonly login: number }
  | { readonly do: 'answer'; readonly login: number | undefined; readonly outcome: 'granted' | 'ended' }
  | { readonly do: 'wait'; readonly hours: number }
  | { readonly do: 'import'; readonly tenant: number | undefined; readonly content: number }
  | { readonly do: 'forget'; readonly content: number }
  | {
      readonly do: 'read';
      readonly login: number | undefined;
      readonly byToken: boolean;
      readonly content: number;
    };

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    do: fc.constant('hold' as const),
    tenant: fc.nat({ max: 1 }),
    login: fc.nat({ max: 1 }),
    isHeld: fc.boolean(),
  }),
  fc.record({ do: fc.constant('restore' as const), login: fc.nat({ max: 1 }) }),
  fc.record({
    do: fc.constant('answer' as const),
    login: fc.option(fc.nat({ max: 1 }), { nil: undefined, freq: 4 }),
    outcome: fc.constantFrom('granted' as const, 'granted' as const, 'ended' as const),
  }),
  fc.record({ do: fc.constant('wait' as const), hours: fc.constantFrom(0.2, 0.5, 3) }),
  fc.record({
    do: fc.constant('read' as const),
    login: fc.option(fc.nat({ max: 3 }), { nil: undefined, freq: 4 }),
    byToken: fc.boolean(),
    content: fc.nat({ max: 1 }),
  }),
  fc.record({
    do: fc.constant('import' as const),
    tenant: fc.option(fc.nat({ max: 1 }), { nil: undefined, freq: 4 }),
    content: fc.nat({ max: 1 }),
  }),
  fc.record({ do: fc.constant('forget' as const), content: fc.nat({ max: 1 }) }),
);

/** Who holds what, and what upstream said last of whom. Knows nothing of how Access does it. */
class Model {
  readonly held = TENANTS.map(() => new Set<number>());
  /** By login, and `undefined` for nobody in particular: when upstream last said yes. */
  readonly proofs = new Map<number | undefined, number>();
  /** By content: the tenants that it was imported for; `undefined` stands for everybody. */
  readonly imports = CONTENTS.map(() => new Set<number | undefined>());
  nowMs = 0;

  /** A Secret's credentials go with it, and what they had proved. */
  hold(tenant: number, login: number, isHeld: boolean): void {
    if (isHeld) this.held[tenant]?.add(login);
    else if (this.held[tenant]?.delete(login) === true && !this.isKnown(login)) this.proofs.delete(login);
  }

  isKnown(login: number | undefined): boolean {
    if (login === undefined || login >= UPSTREAM_LOGINS.length) return true;
    return this.held.some(logins => logins.has(login));
  }

  /** Whether this content may be served to who presents this, without asking upstream. */
  mayRead(login: number | undefined, content: number): boolean {
    const isImported = [undefined, this.#tenantOf(login)].some(tenant => this.imports[content]?.has(tenant));
    return isImported || this.#isProved(login);
  }

  /** Whose login it is, if it is one tenant's alone. */
  #tenantOf(login: number | undefined): number | undefined {
    if (login === undefined) return undefined;
    if (login >= UPSTREAM_LOGINS.length) return login - UPSTREAM_LOGINS.length;
    const holders = [0, 1].filter(tenant => this.held[tenant]?.has(login));
    return holders.length === 1 ? holders[0] : undefined;
  }

  #isProved(login: number | undefined): boolean {
    return [undefined, ...this.#mayUse(login)].some(id => {
      const atMs = this.proofs.get(id);
      return atMs !== undefined && this.nowMs - atMs < HOUR_MS;
    });
  }

  #mayUse(login: number | undefined): readonly (number | undefined)[] {
    if (login === undefined) return [];
    const own = login - UPSTREAM_LOGINS.length;
    return own < 0 ? [login] : [...(this.held[own] ?? [])];
  }
}

let world: AccessWorld | undefined;
afterEach(async () => world?.close());

describe('whatever happens', () => {
  it('nobody reads what the model forbids, and everybody reads what it allows', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 30, maxLength: 80 }), async steps => {
        world = await AccessWorld.open();
        const model = new Model();
        for (const tenant of [0, 1]) await show(world, model, tenant);
        for (const one of steps) expect(await take(world, model, one)).toEqual(expected(model, one));
        await world.close();
        world = undefined;
      }),
      // Each run is a store of its own: making a counterexample shorter would outlast the test, and hide it.
      { numRuns: 60, seed: SEED, interruptAfterTimeLimit: 60_000 },
    );
  }, 120_000);
});

/** What a step has to come to: only a reading comes to anything. */
function expected(model: Model, one: Step): boolean | 'refused' | undefined {
  if (one.do !== 'read') return undefined;
  return model.isKnown(one.login) ? model.mayRead(one.login, one.content) : 'refused';
}

/** Does it, in the model too, and returns what a reading came to. */
async function take(real: AccessWorld, model: Model, one: Step): Promise<boolean | 'refused' | undefined> {
  switch (one.do) {
    case 'hold':
      model.hold(one.tenant, one.login, one.isHeld);
      await show(real, model, one.tenant);
      break;
    case 'restore': {
      // Taken out of every Secret and put back, as whoever mends a file does.
      const holders = [0, 1].filter(tenant => model.held[tenant]?.has(one.login));
      for (const isHeld of [false, true]) {
        for (const tenant of holders) {
          model.hold(tenant, one.login, isHeld);
          await show(real, model, tenant);
        }
      }
      break;
    }
    case 'answer':
      // Upstream is asked only with what somebody holds.
      if (!model.isKnown(one.login)) break;
      if (one.outcome === 'ended') model.proofs.delete(one.login);
      else renew(model, one.login);
      await real.prove(
        REPOSITORY,
        one.login === undefined ? undefined : UPSTREAM_LOGINS[one.login],
        one.outcome,
      );
      break;
    case 'wait':
      model.nowMs += one.hours * HOUR_MS;
      real.clock.nowMs += one.hours * HOUR_MS;
      break;
    case 'import': {
      model.imports[one.content]?.add(one.tenant);
      const grantee = one.tenant === undefined ? '' : tenantGrantee(TENANTS[one.tenant] ?? '');
      const blobs = CONTENTS.slice(one.content, one.content + 1);
      for (const { digest, size } of blobs) await real.metadata.putBlob(digest, size);
      await real.metadata.putContent(REPOSITORY, { manifests: [], blobs, grantee }, 1);
      break;
    }
    case 'forget': {
      // Whoever pulls it again brings it for himself alone.
      model.imports[one.content]?.clear();
      const { digest, size } = CONTENTS[one.content]!;
      await real.metadata.linkBlob(REPOSITORY, KEPT.digest, KEPT.size);
      await real.metadata.unlinkBlob(REPOSITORY, digest);
      await real.metadata.linkBlob(REPOSITORY, digest, size);
      break;
    }
    case 'read':
      return read(real, one);
  }
  return undefined;
}

/** A proof is written anew only when a tenth of its life is over; the steps of time here are longer. */
function renew(model: Model, login: number | undefined): void {
  model.proofs.set(login, model.nowMs);
}

async function show(real: AccessWorld, model: Model, tenant: number): Promise<void> {
  const own = OUR_LOGINS[tenant];
  // A key holds one login, so each has a path of its own that the image lies under.
  const paths = ['up.example', 'up.example/acme'];
  const secrets = Object.fromEntries(
    [...(model.held[tenant] ?? [])].flatMap(login => {
      const secret = UPSTREAM_LOGINS[login];
      return secret === undefined ? [] : [[paths[login] ?? '', secret] as const];
    }),
  );
  await real.put(TENANTS[tenant] ?? '', own === undefined ? secrets : { ...secrets, [SERVER]: own });
}

async function read(
  real: AccessWorld,
  { login, byToken, content }: Extract<Step, { readonly do: 'read' }>,
): Promise<boolean | 'refused'> {
  const presented = login === undefined ? undefined : ALL_LOGINS[login];
  try {
    const subject = byToken ? await withToken(real, presented) : await real.as(presented);
    const { proved, preloadedFor = [] } = await subject.authorize(REPOSITORY, 'pull');
    return proved || (await real.metadata.isPreloaded(REPOSITORY, CONTENTS[content]!.digest, preloadedFor));
  } catch (error) {
    if (error instanceof OciError && error.code === 'UNAUTHORIZED') return 'refused';
    throw error;
  }
}

async function withToken(real: AccessWorld, login: Login | undefined) {
  const sender = { ...SENDER, ...(login === undefined ? {} : basic(login)) };
  const { token } = await real.access.login(sender, {
    password: undefined,
    service: SERVER,
    scopes: parseScopes([`repository:${REPOSITORY.upstream}/${REPOSITORY.name}:pull`]),
    resolve: () => REPOSITORY,
  });
  return real.access.authenticate({ ...SENDER, authorization: `Bearer ${token}` });
}
