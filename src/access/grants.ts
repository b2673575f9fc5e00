import type { Grant, MetadataStore } from '../metadata/metadata-store.ts';
import type { Repository } from '../oci/repository.ts';
import type { Proof } from '../oci/requester.ts';

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
 */
export class Grants {
  readonly #metadata: MetadataStore;
  readonly #rules: GrantRules;
  readonly #nowMs: () => number;

  constructor(metadata: MetadataStore, rules: GrantRules, nowMs: () => number = Date.now) {
    this.#metadata = metadata;
    this.#rules = rules;
    this.#nowMs = nowMs;
  }

  /** The state for whoever holds any of these credentials (`ANONYMOUS_ID`: the repository is public). */
  async stateOf(repository: Repository, credentialIds: readonly string[]): Promise<GrantState> {
    const grants = await this.#metadata.readGrants(repository);
    const held = grants.filter(grant => credentialIds.includes(grant.credentialId));
    const ageMs = Math.min(...held.map(grant => this.#ageOf(grant)), Number.POSITIVE_INFINITY);
    const { verifyForMs, staleGrantForMs } = this.#rules;
    const proved = ageMs < verifyForMs;
    return { proved, provedIfUnreachable: !proved && ageMs < verifyForMs + staleGrantForMs };
  }

  /** What `mirror` reports each upstream answer to. */
  async record(proof: Proof): Promise<void> {
    const repository = { upstream: proof.upstream, name: proof.repository };
    if (proof.outcome === 'ended') {
      await this.#metadata.endGrant(repository, proof.credentialId);
      return;
    }
    const grants = await this.#metadata.readGrants(repository);
    const known = grants.find(grant => grant.credentialId === proof.credentialId);
    if (known === undefined || this.#ageOf(known) > this.#rules.verifyForMs * RENEW_AFTER) {
      await this.#metadata.putGrant(repository, {
        credentialId: proof.credentialId,
        verifiedAtMs: this.#nowMs(),
        origin: known?.origin ?? 'upstream',
      });
    }
  }

  /** A Grant of an operator's import has no upstream that could renew it: it never ages. A clock set back makes none older. */
  #ageOf(grant: Grant): number {
    return grant.origin === 'import' ? 0 : Math.max(0, this.#nowMs() - grant.verifiedAtMs);
  }
}

/** A proof is written anew only past this share of its life: a write per pull would be a disk sync per pull. */
const RENEW_AFTER = 0.1;
