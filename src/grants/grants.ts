/**
 * grants/: what upstreams have proved about credentials. May import tenants/, metadata/, oci/ and lib/.
 *
 * `grants.ts` records proofs and says which are valid, by the kubelet's own rule (`verification.ts`) on its own record
 * (`pull-record.ts`).
 */
import { type Clock, CLOCK_SLACK_MS, systemClock } from '../lib/clock.ts';
import type { Presence } from '../lib/lease.ts';
import type { Grant, MetadataStore, PullQuery, WithGrants } from '../metadata/metadata-store.ts';
import { ANONYMOUS_ID } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import { type PullTarget, ReadAhead } from '../oci/pull-read.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Proof } from '../oci/requester.ts';
import {
  credentialsToRecord,
  mergeCredentials,
  type PulledRecord,
  type RecordedSecret,
  recordImagePulled,
  type UsedCredential,
} from './pull-record.ts';
import { type EndedGrant, UnremovedGrants } from './unremoved-grants.ts';
import { mustAttemptImagePull, normalizedName, VerificationPolicy } from './verification.ts';

/** How long proofs are valid. */
export interface GrantRules {
  /** How long a proof is valid before upstream is asked again, ms. */
  readonly verifyForMs: number;
  /** For how long after that it is still valid while upstream cannot be reached, ms. */
  readonly staleGrantForMs: number;
}

/** The combined state of the Grants of several credentials: the best of them counts. */
export interface GrantState {
  readonly proved: boolean;
  readonly provedIfUnreachable: boolean;
  /** As in `Right`. */
  readonly preloadedFor: readonly string[];
  /** Whether upstream recently served the repository anonymously. */
  readonly isPublic: () => boolean;
  /** As in `Right`. */
  readonly ahead: ReadAhead | undefined;
}

/** A Grant or import, and whether it is valid. */
export interface ExplainedGrant {
  /**
   * `credential`: upstream accepted this one. `public`: upstream accepted an anonymous request. `imported…`: the
   * operator imported it, for all or for this tenant.
   */
  readonly of: 'credential' | 'public' | 'imported for all' | 'imported for this tenant';
  /** Epoch ms. */
  readonly verifiedAtMs: number;
  /** `counts`: stored content is served. `stale`: only while upstream cannot be reached. `over`: expired. */
  readonly state: 'counts' | 'stale' | 'over';
}

/** Whose rights are asked for. */
export interface GrantQuery {
  readonly credentialIds: readonly string[];
  /** The grantee under which imports for it are recorded, besides EVERYBODY. */
  readonly grantee?: string | undefined;
  /** Which stored images need a proof. */
  readonly policy?: VerificationPolicy;
  /** What the right is needed for, which is read with the same question. Default: nothing. */
  readonly target?: PullTarget | undefined;
}

/**
 * Remembered proofs that a credential may read a mirrored repository. Only a response of upstream creates one, for that
 * repository alone: equal content in another repository proves nothing. A failure of upstream neither creates, renews
 * nor ends one.
 *
 * A proof by a credential from a Secret is valid only while some Secret has that credential, so that a Secret that was
 * removed while no server ran gives nothing to somebody who still knows its password. The Grant is not deleted for this
 * reason: a source of Secrets that is unreadable for a while loses none.
 */
export class Grants {
  readonly #metadata: MetadataStore;
  readonly #rules: GrantRules;
  readonly #clock: Pick<Clock, 'nowMs' | 'monotonicMs'>;
  readonly #isHeld: (credentialId: string) => boolean;
  readonly #unremoved: UnremovedGrants;
  /** The proof that was reported last and is not recorded yet, by credential and repository. */
  readonly #recording = new Map<string, Recording>();
  /** By the list of valid Grants: while the index does not change, it answers with the same one from memory. */
  readonly #verdicts = new WeakMap<readonly Grant[], { readonly asker: Asker; readonly mayUse: boolean }>();
  readonly #listeners: ((proof: Proof) => void)[] = [];

  /**
   * `isHeld` tells whether a Secret, the node or the configuration currently has a credential. `maxUnremoved` limits
   * how many ended Grants are remembered whose row could not be removed yet.
   */
  constructor(
    metadata: MetadataStore,
    rules: GrantRules,
    clock: Pick<Clock, 'nowMs' | 'monotonicMs'> = systemClock,
    isHeld: (credentialId: string) => boolean = () => true,
    maxUnremoved = MAX_UNREMOVED,
  ) {
    this.#metadata = metadata;
    this.#rules = rules;
    this.#clock = clock;
    this.#isHeld = isHeld;
    this.#unremoved = new UnremovedGrants(metadata, maxUnremoved);
  }

  /**
   * The combined state for a requester that has any of `keptIds` and is named by `grantee` in imports. Decided by the
   * kubelet's own rule, with valid Grants as its record of pulls. A right of everybody is also a right of this
   * requester.
   */
  async stateOf(
    repository: Repository,
    { credentialIds, grantee, policy = DEFAULT_POLICY, target }: GrantQuery,
  ): Promise<GrantState> {
    const keptIds = [...new Set([ANONYMOUS_ID, ...credentialIds.map(id => this.#keptAs(id))])];
    const image = repositoryText(repository);
    const asker = { image, keptIds, policy };
    // To the kubelet, what was imported for everybody is preloaded: there is no record of a pull.
    const isOpened = mayUse(asker, undefined);
    const grantees = [...(isOpened ? [EVERYBODY] : []), ...(grantee === undefined ? [] : [grantee])];
    const read = await this.#readFor(repository, { credentialIds: keptIds, grantees }, target);
    const { grants } = read;
    const { verifyForMs, staleGrantForMs } = this.#rules;
    const isPublic = () => {
      const anonymous = grants.filter(grant => grant.credentialId === ANONYMOUS_ID);
      return this.#mayUse({ ...asker, policy: ALWAYS_VERIFY }, anonymous, verifyForMs);
    };
    const proved = this.#mayUse(asker, grants, verifyForMs);
    if (proved) return { proved, provedIfUnreachable: false, preloadedFor: [], isPublic, ahead: read.ahead };
    return {
      proved,
      provedIfUnreachable: this.#mayUse(asker, grants, verifyForMs + staleGrantForMs),
      preloadedFor: grantees,
      isPublic,
      ahead: read.knowsPreloads ? read.ahead : undefined,
    };
  }

  /** For `explain`: all Grants that may concern these credentials. */
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

  /** For `explain`: what was imported into the repository for everybody, or for this tenant. */
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

  get presence(): Presence {
    return this.#metadata.presence;
  }

  /** Whether another process on the index has recorded an end of the right in the last `agoMs`, or may have. */
  hasEndedElsewhere(repository: Repository, credentialId: string, agoMs: number): Promise<boolean> {
    return this.#metadata.hasEndedGrant(repository, { credentialIds: namesOf(credentialId), agoMs });
  }

  /** Calls `listener` with every proof that is reported, before it is recorded. */
  onProof(listener: (proof: Proof) => void): void {
    this.#listeners.push(listener);
  }

  /**
   * Records what an upstream response proved. An end counts at once. However slow the index is, at most one write is in
   * progress and one waits, with the outcome that was reported last.
   */
  async record(proof: Proof): Promise<void> {
    for (const listener of this.#listeners) listener(proof);
    const { upstream, repository: name, credentialId: id, outcome, during, agoMs } = proof;
    const repository = { upstream, name };
    const credentialId = this.#keptAs(id);
    const key = `${credentialId} ${repositoryText(repository)}`;
    const before = this.#recording.get(key);
    if (before?.outcome === outcome) return before.done;
    const ended =
      outcome === 'ended'
        ? this.#unremoved.end(repository, credentialId)
        : this.#unremoved.endOf(repository, credentialId);
    const write = () =>
      outcome === 'ended'
        ? this.#remove(repository, credentialId, ended)
        : this.#renew(repository, credentialId, { ended, during, agoMs });
    if (before !== undefined && !before.hasBegun) {
      before.become(outcome, write);
      return before.done;
    }
    const recording = new Recording(outcome, write, before);
    this.#recording.set(key, recording);
    try {
      await recording.done;
    } finally {
      if (this.#recording.get(key) === recording) this.#recording.delete(key);
    }
  }

  async #remove(repository: Repository, credentialId: string, ended: EndedGrant | undefined): Promise<void> {
    if (ended === undefined) return;
    await Promise.all([
      this.#removeRow(repository, credentialId, ended),
      this.#removeOther(repository, credentialId),
    ]);
  }

  /** What was recorded under the other id, before a Secret had the credential, or where that is not known yet. */
  async #removeOther(repository: Repository, credentialId: string): Promise<void> {
    const other = namesOf(credentialId).find(id => id !== credentialId);
    if (credentialId === ANONYMOUS_ID || other === undefined) return;
    if (await this.#mayHave(repository, other))
      await this.#unremoved.remove(this.#unremoved.end(repository, other));
  }

  /** Whether there is a row, as far as the index can be read. */
  #mayHave(repository: Repository, credentialId: string): Promise<boolean> {
    return this.#metadata.readGrants(repository, [credentialId]).then(
      ([known]) => known !== undefined,
      () => true,
    );
  }

  async #removeRow(repository: Repository, credentialId: string, ended: EndedGrant): Promise<void> {
    try {
      await this.#unremoved.remove(ended);
    } catch (error) {
      // Clients are refused any name: what has no row is not remembered.
      if (!(await this.#mayHave(repository, credentialId))) this.#unremoved.drop(ended);
      throw error;
    }
  }

  /** `ended`: the end that is remembered of the row which this one replaces. */
  async #renew(
    repository: Repository,
    credentialId: string,
    { ended, during, agoMs }: Pick<Proof, 'during' | 'agoMs'> & { readonly ended: EndedGrant | undefined },
  ): Promise<void> {
    const [known] = await this.#metadata.readGrants(repository, [credentialId]);
    const isRecent =
      known !== undefined &&
      !this.#unremoved.has(repository, credentialId) &&
      this.#ageOf(known) <= this.#rules.verifyForMs * RENEW_AFTER;
    if (isRecent) return;
    await this.#unremoved.makeRoom(credentialId);
    const grant = { credentialId, verifiedAtMs: this.#clock.nowMs() };
    const unlessEnded = agoMs && { credentialIds: namesOf(credentialId), agoMs: agoMs() };
    const isRecorded = await this.#metadata.putGrant(repository, grant, { during, unlessEnded });
    if (isRecorded) this.#unremoved.drop(ended);
  }

  /** Call whenever the index has accepted a write: removes the Grants that ended while it accepted none. */
  async removeEnded(): Promise<void> {
    await this.#unremoved.removeAll();
  }

  /** Ends all Grants of a credential that no Secret has any more. They prove nothing from now on, even if this rejects. */
  async endAllOf(credentialId: string): Promise<void> {
    await Promise.all([credentialId, UNHELD + credentialId].map(id => this.#unremoved.endAll(id)));
  }

  /** The Grants of these ids, without those that upstream has ended. */
  async #read(repository: Repository, keptIds: readonly string[]): Promise<readonly Grant[]> {
    return this.#withoutEnded(repository, await this.#metadata.readGrants(repository, keptIds));
  }

  /** The same, and what the index says of `target`, by one question. */
  async #readFor(
    repository: Repository,
    query: Required<PullQuery>,
    target: PullTarget | undefined,
  ): Promise<GrantsAndTarget> {
    if (target === undefined) {
      const grants = await this.#read(repository, query.credentialIds);
      return { grants, ahead: undefined, knowsPreloads: false };
    }
    if ('blob' in target) {
      const read = await this.#metadata.readBlobForPull(repository, target.blob, query);
      return this.#readAhead(repository, read, ReadAhead.ofBlob(repository, target.blob, read));
    }
    const sinceMs = this.#clock.monotonicMs();
    const read = await this.#metadata.readForPull(repository, target.manifest, query);
    const ahead = ReadAhead.ofManifest(repository, target.manifest, { ...read, sinceMs });
    return this.#readAhead(repository, read, ahead);
  }

  #readAhead(repository: Repository, { grants }: WithGrants, ahead: ReadAhead): GrantsAndTarget {
    return { grants: this.#withoutEnded(repository, grants), ahead, knowsPreloads: grants.length === 0 };
  }

  #withoutEnded(repository: Repository, grants: readonly Grant[]): readonly Grant[] {
    if (this.#unremoved.isEmpty) return grants;
    return grants.filter(({ credentialId }) => !this.#unremoved.has(repository, credentialId));
  }

  /** Whether the kubelet would let `asker` use the image, with the Grants younger than `maxAgeMs` as its record of pulls. */
  #mayUse(asker: Asker, grants: readonly Grant[], maxAgeMs: number): boolean {
    const isYoung = (grant: Grant) => this.#ageOf(grant) < maxAgeMs;
    const valid = grants.every(isYoung) ? grants : grants.filter(isYoung);
    const known = this.#verdicts.get(valid);
    if (known !== undefined && isSameAsker(known.asker, asker)) return known.mayUse;
    const verdict = { asker, mayUse: mayUse(asker, recordOf(asker.image, valid)) };
    this.#verdicts.set(valid, verdict);
    return verdict.mayUse;
  }

  /** The id under which proofs of a credential are recorded: credentials that nobody holds have a prefix. */
  #keptAs(credentialId: string): string {
    return credentialId === ANONYMOUS_ID || this.#isHeld(credentialId) ? credentialId : UNHELD + credentialId;
  }

  #ageOf(grant: Grant): number {
    return ageOf(grant, this.#rules, this.#clock.nowMs());
  }
}

/**
 * The age of a Grant. One from the future was made with a clock that was set back since; its age is unknown, so it has
 * to be verified again.
 */
function ageOf({ verifiedAtMs }: Grant, { verifyForMs }: GrantRules, nowMs: number): number {
  const ageMs = nowMs - verifiedAtMs;
  return ageMs < -CLOCK_SLACK_MS ? verifyForMs : Math.max(0, ageMs);
}

/** The write of a proof, which begins when the one before it has ended. */
class Recording {
  /** Rejects if the index accepts no write. */
  readonly done: Promise<void>;
  #outcome: Proof['outcome'];
  #write: () => Promise<void>;
  #hasBegun = false;

  constructor(outcome: Proof['outcome'], write: () => Promise<void>, before: Recording | undefined) {
    this.#outcome = outcome;
    this.#write = write;
    const begin = () => this.#begin();
    this.done = before === undefined ? begin() : before.done.then(begin, begin);
  }

  get outcome(): Proof['outcome'] {
    return this.#outcome;
  }

  get hasBegun(): boolean {
    return this.#hasBegun;
  }

  /** Writes something later instead. Only before it has begun. */
  become(outcome: Proof['outcome'], write: () => Promise<void>): void {
    this.#outcome = outcome;
    this.#write = write;
  }

  #begin(): Promise<void> {
    this.#hasBegun = true;
    return this.#write();
  }
}

/** Who asks for an image, by what rules. */
interface Asker {
  readonly image: string;
  /** The ids under which proofs of its credentials are recorded. */
  readonly keptIds: readonly string[];
  readonly policy: VerificationPolicy;
}

function isSameAsker(one: Asker, other: Asker): boolean {
  return (
    one.image === other.image &&
    one.policy === other.policy &&
    one.keptIds.length === other.keptIds.length &&
    one.keptIds.every((id, at) => id === other.keptIds[at])
  );
}

/** The kubelet's own rule. */
function mayUse({ image, keptIds, policy }: Asker, record: PulledRecord | undefined): boolean {
  const held = { imageRef: image, record, isPulling: false };
  const { mustPull } = mustAttemptImagePull(image, held, policy, () => ({
    secrets: keptIds.map(usedCredential).filter(isUsed).map(recordedSecret),
    serviceAccount: undefined,
  }));
  return !mustPull;
}

/** The kubelet's record of pulls for these Grants. */
function recordOf(image: string, grants: readonly Grant[]): PulledRecord {
  const proofs = grants.map(({ credentialId }) => credentialsToRecord(usedCredential(credentialId)));
  const repository = normalizedName(image);
  const [first, ...others] = repository === undefined ? [] : proofs;
  const record = recordImagePulled(undefined, image, repository ?? '', first);
  return others.reduce((before, added) => mergeCredentials(before, repository ?? '', added), record);
}

interface GrantsAndTarget {
  readonly grants: readonly Grant[];
  readonly ahead: ReadAhead | undefined;
  /** Whether `ahead` says whether the target was imported for the requester. */
  readonly knowsPreloads: boolean;
}

/** A repository is public if upstream served it anonymously, whatever else the verification policy allows. */
const ALWAYS_VERIFY = new VerificationPolicy('AlwaysVerify');

/** Kubernetes' default. */
const DEFAULT_POLICY = new VerificationPolicy('NeverVerifyPreloadedImages');

/**
 * The credential of a Grant as the kubelet would record it. Here tenants write the Secrets, so the same Secret with
 * other content must prove nothing: each credential counts as an object of its own, with its id as its hash.
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

/**
 * Prefix of the id of a credential that nobody holds: it came from a plugin, or was sent by a client and tried
 * upstream.
 */
const UNHELD = 'unheld:';

/** All ids under which a credential may be recorded: other processes may know of its Secret earlier or later. */
function namesOf(credentialId: string): readonly string[] {
  const id = credentialId.startsWith(UNHELD) ? credentialId.slice(UNHELD.length) : credentialId;
  return [id, UNHELD + id];
}

/** The grantee of imports for everybody. */
const EVERYBODY = '';

/**
 * Whether everybody may have this content: its repository is public, or all of it was imported for everybody and no
 * credential has proved a right to the repository. A bundle with any other content counts as private. Upstream is not
 * asked, so proofs count as long as while it cannot be reached.
 */
export async function isOpenToAll(
  metadata: MetadataStore,
  repository: Repository,
  digests: readonly Digest[],
  rules: GrantRules,
  nowMs: number = Date.now(),
): Promise<boolean> {
  const grants = await metadata.readGrants(repository);
  const maxAgeMs = rules.verifyForMs + rules.staleGrantForMs;
  const ofAnybody = grants.filter(({ credentialId }) => credentialId === ANONYMOUS_ID);
  if (ofAnybody.some(grant => ageOf(grant, rules, nowMs) < maxAgeMs)) return true;
  if (ofAnybody.length < grants.length) return false;
  for (const digest of digests) {
    if (!(await metadata.isPreloaded(repository, digest, [EVERYBODY]))) return false;
  }
  return true;
}

/** The grantee of imports for a tenant (`--tenant`). Never equals the id of a credential. */
export function tenantGrantee(tenant: string): string {
  return `tenant:${tenant}`;
}

/** A proof is rewritten only after this share of its life: otherwise every pull would sync the disk. */
const RENEW_AFTER = 0.1;

/** A few hundred bytes each. */
const MAX_UNREMOVED = 10_000;
