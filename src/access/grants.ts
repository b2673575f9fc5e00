import type { Grant, MetadataStore } from '../metadata/metadata-store.ts';
import { ANONYMOUS_ID } from '../oci/credential.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Proof } from '../oci/requester.ts';
import type { ExplainedGrant } from './explanation.ts';
import {
  credentialsToRecord,
  mergeCredentials,
  type ObjectCoordinates,
  type PullCredentials,
  type PulledRecord,
  type RecordedSecret,
  recordImagePulled,
  type UsedCredential,
} from './pull-record.ts';
import {
  mustAttemptImagePull,
  normalizedName,
  type PodCredentials,
  VerificationPolicy,
} from './verification.ts';

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

  /** `isHeld`: whether a Secret, the node or the configuration has the credential now. */
  constructor(
    metadata: MetadataStore,
    rules: GrantRules,
    nowMs: () => number = Date.now,
    isHeld: (credentialId: string) => boolean = () => true,
  ) {
    this.#metadata = metadata;
    this.#rules = rules;
    this.#nowMs = nowMs;
    this.#isHeld = isHeld;
  }

  /**
   * The state for whoever holds any of these credentials, by the kubelet's own rule: the Grants that count now are its
   * record of pulls. Access for everybody is anybody's.
   */
  async stateOf(
    repository: Repository,
    credentialIds: readonly string[],
    policy: VerificationPolicy = DEFAULT_POLICY,
  ): Promise<GrantState> {
    const grants = await this.#metadata.readGrants(repository);
    const image = repositoryText(repository);
    const mayUse = (record: PulledRecord | undefined) => {
      const held = { imageRef: image, record, isPulling: false };
      return !mustAttemptImagePull(image, held, policy, () => this.#asker(credentialIds)).mustPull;
    };
    if (!isPulledHere(grants) && mayUse(undefined)) return { proved: true, provedIfUnreachable: false };
    const { verifyForMs, staleGrantForMs } = this.#rules;
    const proved = mayUse(this.#recordOf(image, grants, verifyForMs));
    if (proved) return { proved, provedIfUnreachable: false };
    return {
      proved,
      provedIfUnreachable: mayUse(this.#recordOf(image, grants, verifyForMs + staleGrantForMs)),
    };
  }

  /** Every Grant that may concern a tenant with these credentials, for people to read; by credential id. */
  async explain(
    repository: Repository,
    tenant: string,
    credentialIds: readonly string[],
  ): Promise<ReadonlyMap<string, ExplainedGrant>> {
    const grants = await this.#metadata.readGrants(repository);
    const ids = [...credentialIds, ANONYMOUS_ID, PUBLIC_ID, tenantGrantId(tenant)];
    const byKept = new Map(ids.map(id => [this.#keptAs(id), id]));
    return new Map(
      grants.flatMap(grant => {
        const id = byKept.get(grant.credentialId);
        return id === undefined ? [] : [[id, this.#explained(grant)] as const];
      }),
    );
  }

  #explained(grant: Grant): ExplainedGrant {
    const { credentialId, verifiedAtMs, origin } = grant;
    const ageMs = this.#ageOf(grant);
    const { verifyForMs, staleGrantForMs } = this.#rules;
    const state = ageMs < verifyForMs ? 'counts' : ageMs < verifyForMs + staleGrantForMs ? 'stale' : 'over';
    const isForAll = credentialId === ANONYMOUS_ID || credentialId === PUBLIC_ID;
    const of =
      origin === 'import'
        ? isForAll
          ? 'imported for all'
          : 'imported for this tenant'
        : isForAll
          ? 'public'
          : 'credential';
    return { of, verifiedAtMs, state };
  }

  /** What `mirror` reports each upstream answer to. */
  async record(proof: Proof): Promise<void> {
    const repository = { upstream: proof.upstream, name: proof.repository };
    const grants = await this.#metadata.readGrants(repository);
    const find = (id: string): Grant | undefined => grants.find(grant => grant.credentialId === id);
    const kept = this.#keptAs(proof.credentialId);
    const first = find(kept);
    // An operator's word stands beside what upstream says, whatever that is.
    const isPreloaded = first !== undefined && isPreload(first);
    const credentialId = isPreloaded ? PUBLIC_ID : kept;
    const known = isPreloaded ? find(PUBLIC_ID) : first;
    if (proof.outcome === 'ended') {
      if (known !== undefined) await this.#metadata.endGrant(repository, credentialId);
    } else if (known === undefined || this.#ageOf(known) > this.#rules.verifyForMs * RENEW_AFTER) {
      const origin = known?.origin ?? 'upstream';
      await this.#metadata.putGrant(repository, { credentialId, verifiedAtMs: this.#nowMs(), origin });
    }
  }

  /** The credential is gone from wherever it stood: with it goes all that it proved. */
  async endAllOf(credentialId: string): Promise<void> {
    await Promise.all([credentialId, UNHELD + credentialId].map(id => this.#metadata.endGrantsOf(id)));
  }

  /** What those Grants prove that are younger than `maxAgeMs`. */
  #recordOf(image: string, grants: readonly Grant[], maxAgeMs: number): PulledRecord {
    const proofs: PullCredentials[] = [];
    for (const grant of grants) {
      if (isPreload(grant) || this.#ageOf(grant) >= maxAgeMs) continue;
      proofs.push(credentialsToRecord(usedCredential(grant.credentialId)));
    }
    const repository = normalizedName(image);
    const [first, ...others] = repository === undefined ? [] : oneOfEachKind(proofs);
    const record = recordImagePulled(undefined, image, repository ?? '', first);
    return others.reduce((before, added) => mergeCredentials(before, repository ?? '', added), record);
  }

  #asker(credentialIds: readonly string[]): PodCredentials {
    const secrets: RecordedSecret[] = [];
    let serviceAccount: ObjectCoordinates | undefined;
    for (const id of credentialIds) {
      const used = usedCredential(this.#keptAs(id));
      if (used?.from === 'secret') secrets.push({ ...used.secret, credentialHash: used.hash });
      else if (used?.from === 'serviceAccount') serviceAccount = used.serviceAccount;
    }
    return { secrets, serviceAccount };
  }

  /** Under which id the proofs of a credential are kept: those of one that nobody holds, by themselves. */
  #keptAs(credentialId: string): string {
    const isNone = credentialId === ANONYMOUS_ID || credentialId === PUBLIC_ID;
    return isNone || credentialId.startsWith(TENANT) || this.#isHeld(credentialId)
      ? credentialId
      : UNHELD + credentialId;
  }

  /**
   * A Grant of an operator's import has no upstream that could renew it: it never ages. One that lies in the future was
   * made by a clock that has been set back since: nobody knows how old it is, so it is to be verified again.
   */
  #ageOf(grant: Grant): number {
    if (grant.origin === 'import') return 0;
    const ageMs = this.#nowMs() - grant.verifiedAtMs;
    return ageMs < -CLOCK_SLACK_MS ? this.#rules.verifyForMs : Math.max(0, ageMs);
  }
}

const TENANT = 'tenant:';

/** A clock that is kept right goes back by less. */
const CLOCK_SLACK_MS = 60_000;

/** Kubernetes' own default. */
const DEFAULT_POLICY = new VerificationPolicy('NeverVerifyPreloadedImages');

/**
 * With what the kubelet would say that a Grant of this id was pulled. Secrets are written by tenants here, so that the
 * same Secret with other content proves nothing: a credential is an object of its own, and has its id as its hash. What an
 * operator gave to a tenant by name is its namespace's, whatever its credentials.
 */
function usedCredential(id: string): UsedCredential | undefined {
  if (id === ANONYMOUS_ID || id === PUBLIC_ID) return undefined;
  if (id.startsWith(TENANT)) {
    return {
      from: 'serviceAccount',
      serviceAccount: { uid: '', namespace: id.slice(TENANT.length), name: '' },
    };
  }
  return { from: 'secret', secret: { uid: id, namespace: '', name: '' }, hash: id };
}

/** Thousands of proofs as one or two, since what is merged is sorted. */
function oneOfEachKind(proofs: readonly PullCredentials[]): readonly PullCredentials[] {
  const [only] = proofs;
  if (only !== undefined && proofs.length === 1) return [only];
  const open = proofs.find(({ nodePodsAccessible }) => nodePodsAccessible === true);
  if (open !== undefined) return [open];
  const kubernetesSecrets = proofs.flatMap(proof => proof.kubernetesSecrets ?? []);
  const kubernetesServiceAccounts = proofs.flatMap(proof => proof.kubernetesServiceAccounts ?? []);
  return [
    ...(kubernetesSecrets.length > 0 ? [{ kubernetesSecrets }] : []),
    ...(kubernetesServiceAccounts.length > 0 ? [{ kubernetesServiceAccounts }] : []),
  ];
}

/** Before the id of a credential that a plugin gave, or that was tried upstream and stands nowhere. */
const UNHELD = 'unheld:';

/** The proof that a repository is public, where the one for anybody is an import's. No keyed hash looks like it. */
const PUBLIC_ID = 'public';

/** What was imported for all: no upstream said so, and the verification policy decides whether that is enough. */
function isPreload({ credentialId, origin }: Grant): boolean {
  return credentialId === ANONYMOUS_ID && origin === 'import';
}

/**
 * Preloaded is what was imported for all. Once somebody has pulled with a credential what may be private, an import
 * no longer opens the whole repository.
 */
function isPulledHere(grants: readonly Grant[]): boolean {
  const isPrivate = grants.some(
    ({ credentialId, origin }) =>
      origin === 'upstream' && credentialId !== ANONYMOUS_ID && credentialId !== PUBLIC_ID,
  );
  return isPrivate || !grants.some(isPreload);
}

/** Whether everybody may have the repository, for all that is known here. A bundle of any other is a private one. */
export function isOpenToAll(grants: readonly Grant[]): boolean {
  const isProved = grants.some(
    grant => grant.credentialId === PUBLIC_ID || (grant.credentialId === ANONYMOUS_ID && !isPreload(grant)),
  );
  return isProved || !isPulledHere(grants);
}

/** The id under which what an import or a pull on the command line gave to a tenant is remembered. */
export function tenantGrantId(tenant: string): string {
  return TENANT + tenant;
}

/** A proof is written anew only past this share of its life: a write per pull would be a disk sync per pull. */
const RENEW_AFTER = 0.1;
