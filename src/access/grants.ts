import { CLOCK_SLACK_MS } from '../lib/clock.ts';
import type { Grant, MetadataStore } from '../metadata/metadata-store.ts';
import { ANONYMOUS_ID } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Proof } from '../oci/requester.ts';
import type { ExplainedGrant } from './explanation.ts';
import {
  credentialsToRecord,
  mergeCredentials,
  type PulledRecord,
  type RecordedSecret,
  recordImagePulled,
  type UsedCredential,
} from './pull-record.ts';
import { UnremovedGrants } from './unremoved-grants.ts';
import { mustAttemptImagePull, normalizedName, VerificationPolicy } from './verification.ts';

export interface GrantRules {
  /** How long a proof counts before upstream is asked again, ms. */
  readonly verifyForMs: number;
  /** How long beyond that it still counts while upstream cannot be reached, ms. */
  readonly staleGrantForMs: number;
}

/** What the Grants of some credentials amount to, together: the best of them counts. */
export interface GrantState {
  readonly proved: boolean;
  readonly provedIfUnreachable: boolean;
  /** As in `Right`. */
  readonly preloadedFor: readonly string[];
}

/** Whose state is wanted. */
export interface Asker {
  readonly credentialIds: readonly string[];
  /** Whom imports name for it, beside everybody. */
  readonly grantee?: string | undefined;
  /** What held images have to be proved a right to. */
  readonly policy?: VerificationPolicy;
}

/**
 * Remembered proofs that a credential may read a mirrored repository. Made only by an upstream answer, per repository:
 * equal content elsewhere proves nothing. An upstream error neither makes, renews nor ends one.
 *
 * What a credential proved while it stood in a Secret counts only while it stands in one: a Secret that went while
 * nobody looked has left its Grants, and they serve nobody who still knows its password. Nothing is deleted for it: a
 * source that cannot be read for a while takes no Grant with it.
 */
export class Grants {
  readonly #metadata: MetadataStore;
  readonly #rules: GrantRules;
  readonly #nowMs: () => number;
  readonly #isHeld: (credentialId: string) => boolean;
  readonly #unremoved: UnremovedGrants;

  /**
   * `isHeld`: whether a Secret, the node or the configuration has the credential now. `maxUnremoved`: of how many
   * repositories it is remembered that the row of an ended Grant is still there.
   */
  constructor(
    metadata: MetadataStore,
    rules: GrantRules,
    nowMs: () => number = Date.now,
    isHeld: (credentialId: string) => boolean = () => true,
    maxUnremoved = MAX_UNREMOVED,
  ) {
    this.#metadata = metadata;
    this.#rules = rules;
    this.#nowMs = nowMs;
    this.#isHeld = isHeld;
    this.#unremoved = new UnremovedGrants(metadata, maxUnremoved);
  }

  /**
   * The state for whoever holds any of these credentials, and for whom `grantee` stands in imports: by the kubelet's own
   * rule, to which the Grants that count now are its record of pulls. Access for everybody is anybody's.
   */
  async stateOf(
    repository: Repository,
    { credentialIds, grantee, policy = DEFAULT_POLICY }: Asker,
  ): Promise<GrantState> {
    const keptIds = [...new Set([ANONYMOUS_ID, ...credentialIds.map(id => this.#keptAs(id))])];
    const grants = await this.#read(repository, keptIds);
    const image = repositoryText(repository);
    const secrets = keptIds.map(usedCredential).filter(isUsed).map(recordedSecret);
    const mayUse = (record: PulledRecord | undefined) => {
      const held = { imageRef: image, record, isPulling: false };
      const asker = { secrets, serviceAccount: undefined };
      return !mustAttemptImagePull(image, held, policy, () => asker).mustPull;
    };
    const { verifyForMs, staleGrantForMs } = this.#rules;
    const proved = mayUse(this.#recordOf(image, grants, verifyForMs));
    if (proved) return { proved, provedIfUnreachable: false, preloadedFor: [] };
    const preloadedFor = grantee === undefined ? [] : [grantee];
    return {
      proved,
      provedIfUnreachable: mayUse(this.#recordOf(image, grants, verifyForMs + staleGrantForMs)),
      // What was imported for everybody is preloaded to the kubelet: there is no record of a pull.
      preloadedFor: mayUse(undefined) ? [EVERYBODY, ...preloadedFor] : preloadedFor,
    };
  }

  /** Every Grant that may concern these credentials, for people to read; by credential id. */
  async explain(
    repository: Repository,
    credentialIds: readonly string[],
  ): Promise<ReadonlyMap<string, ExplainedGrant>> {
    const byKept = new Map([...credentialIds, ANONYMOUS_ID].map(id => [this.#keptAs(id), id]));
    const grants = await this.#read(repository, [...byKept.keys()]);
    return new Map(
      grants.map(grant => [byKept.get(grant.credentialId) ?? grant.credentialId, this.#explained(grant)]),
    );
  }

  /** The same of what was imported, by whoever runs this registry, for everybody or for the tenant, if there is one. */
  async explainPreloads(
    repository: Repository,
    tenant: string | undefined,
  ): Promise<readonly ExplainedGrant[]> {
    const preloads = await this.#metadata.listPreloads(repository);
    return preloads.flatMap(({ grantee, atMs }) => {
      const isTheirs = tenant !== undefined && grantee === tenantGrantee(tenant);
      if (grantee !== EVERYBODY && !isTheirs) return [];
      const of = grantee === EVERYBODY ? 'imported for all' : 'imported for this tenant';
      return [{ of, verifiedAtMs: atMs, state: 'counts' } as const];
    });
  }

  #explained(grant: Grant): ExplainedGrant {
    const { credentialId, verifiedAtMs } = grant;
    const ageMs = this.#ageOf(grant);
    const { verifyForMs, staleGrantForMs } = this.#rules;
    const state = ageMs < verifyForMs ? 'counts' : ageMs < verifyForMs + staleGrantForMs ? 'stale' : 'over';
    return { of: credentialId === ANONYMOUS_ID ? 'public' : 'credential', verifiedAtMs, state };
  }

  /** What `mirror` reports each upstream answer to. */
  async record(proof: Proof): Promise<void> {
    const repository = { upstream: proof.upstream, name: proof.repository };
    const credentialId = this.#keptAs(proof.credentialId);
    const [known] = await this.#metadata.readGrants(repository, [credentialId]);
    if (proof.outcome === 'ended') {
      if (known !== undefined) await this.#unremoved.end(repository, credentialId);
    } else if (
      known === undefined ||
      this.#unremoved.has(repository, credentialId) ||
      this.#ageOf(known) > this.#rules.verifyForMs * RENEW_AFTER
    ) {
      await this.#unremoved.makeRoom(credentialId);
      await this.#metadata.putGrant(repository, { credentialId, verifiedAtMs: this.#nowMs() });
      this.#unremoved.replaced(repository, credentialId);
    }
  }

  /** For each time that the index has taken a write: removes the Grants that ended while it took none. */
  async removeEnded(): Promise<void> {
    await this.#unremoved.removeAll();
  }

  /** The credential is gone from wherever it stood: with it goes all that it proved. */
  async endAllOf(credentialId: string): Promise<void> {
    await Promise.all([credentialId, UNHELD + credentialId].map(id => this.#metadata.endGrantsOf(id)));
  }

  /** Those that upstream has not ended. */
  async #read(repository: Repository, keptIds: readonly string[]): Promise<readonly Grant[]> {
    const grants = await this.#metadata.readGrants(repository, keptIds);
    return grants.filter(({ credentialId }) => !this.#unremoved.has(repository, credentialId));
  }

  /** What those Grants prove that are younger than `maxAgeMs`. */
  #recordOf(image: string, grants: readonly Grant[], maxAgeMs: number): PulledRecord {
    const proofs = grants
      .filter(grant => this.#ageOf(grant) < maxAgeMs)
      .map(({ credentialId }) => credentialsToRecord(usedCredential(credentialId)));
    const repository = normalizedName(image);
    const [first, ...others] = repository === undefined ? [] : proofs;
    const record = recordImagePulled(undefined, image, repository ?? '', first);
    return others.reduce((before, added) => mergeCredentials(before, repository ?? '', added), record);
  }

  /** Under which id the proofs of a credential are kept: those of one that nobody holds, by themselves. */
  #keptAs(credentialId: string): string {
    return credentialId === ANONYMOUS_ID || this.#isHeld(credentialId) ? credentialId : UNHELD + credentialId;
  }

  /**
   * One that lies in the future was made by a clock that has been set back since: nobody knows how old it is, so it is to be
   * verified again.
   */
  #ageOf(grant: Grant): number {
    const ageMs = this.#nowMs() - grant.verifiedAtMs;
    return ageMs < -CLOCK_SLACK_MS ? this.#rules.verifyForMs : Math.max(0, ageMs);
  }
}

/** Kubernetes' own default. */
const DEFAULT_POLICY = new VerificationPolicy('NeverVerifyPreloadedImages');

/**
 * With what the kubelet would say that a Grant of this id was pulled. Secrets are written by tenants here, so that the
 * same Secret with other content proves nothing: a credential is an object of its own, and has its id as its hash.
 */
function usedCredential(id: string): SecretCredential | undefined {
  return id === ANONYMOUS_ID
    ? undefined
    : { from: 'secret', secret: { uid: id, namespace: '', name: '' }, hash: id };
}

type SecretCredential = Extract<UsedCredential, { readonly from: 'secret' }>;

function isUsed(credential: SecretCredential | undefined): credential is SecretCredential {
  return credential !== undefined;
}

function recordedSecret({ secret, hash }: SecretCredential): RecordedSecret {
  return { ...secret, credentialHash: hash };
}

/** Before the id of a credential that a plugin gave, or that was tried upstream and stands nowhere. */
const UNHELD = 'unheld:';

/** The grantee of what was imported for everybody. */
const EVERYBODY = '';

/**
 * Whether everybody may have an image, for all that is known here: its repository is public, or it was imported for
 * everybody where nobody has proved a right of his own. A bundle of any other is a private one.
 */
export async function isOpenToAll(
  metadata: MetadataStore,
  repository: Repository,
  digest: Digest,
): Promise<boolean> {
  const grants = await metadata.readGrants(repository);
  if (grants.some(({ credentialId }) => credentialId === ANONYMOUS_ID)) return true;
  return grants.length === 0 && metadata.isPreloaded(repository, digest, [EVERYBODY]);
}

/** For whom a tenant stands in imports (`--tenant`). No credential's id looks like it. */
export function tenantGrantee(tenant: string): string {
  return `tenant:${tenant}`;
}

/** A proof is written anew only past this share of its life: a write per pull would be a disk sync per pull. */
const RENEW_AFTER = 0.1;

/** A few hundred bytes each. */
const MAX_UNREMOVED = 10_000;
