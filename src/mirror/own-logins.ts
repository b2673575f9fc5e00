import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import { SingleFlight } from '../lib/single-flight.ts';
import type { Credential } from '../oci/credential.ts';
import { ownLoginRefusedBy } from '../oci/reasons.ts';
import type { Right } from '../oci/requester.ts';
import { UpstreamFailure } from '../upstream/failures.ts';
import type { Upstream } from '../upstream/upstream.ts';

/** How long a refusal is believed before upstream is asked about the credential again. */
const REFUSED_FOR_MS = 10_000;
/**
 * How long an acceptance is believed while requests are denied, so that clients cannot cause a flood of logins. Short,
 * since after a change of the password these denials would end rights.
 */
const ACCEPTED_FOR_MS = 1_000;

export interface OwnLoginsOptions {
  readonly upstreams: ReadonlyMap<string, Pick<Upstream, 'acceptsLogin'>>;
  /** Entrepot's own credential for an upstream, from the configuration; called each time. */
  readonly loginOf: (upstream: string) => Credential | undefined;
  readonly log: Log;
  readonly meter: Meter;
  readonly nowMs: () => number;
}

/** The credential and the repository of a request that upstream answered. */
export interface LoginUse {
  readonly upstream: string;
  readonly credentialId: string;
}

/** Entrepot's own credentials for an upstream, and what is known of them. */
export interface OwnLoginState {
  readonly username: string;
  /** `undefined` while upstream has not judged them. */
  readonly isAccepted: boolean | undefined;
  /** When it did, epoch ms. */
  readonly atMs: number | undefined;
}

interface Verdict {
  /** The verdict applies to this credential only, not to a new password. */
  readonly credentialId: string;
  readonly isAccepted: boolean;
  /**
   * Upstream said so when asked about the credential itself; otherwise concluded from its answers to other requests.
   */
  readonly isSaid: boolean;
  readonly atMs: number;
}

/**
 * Tracks which of Entrepot's own credentials upstreams refuse as such, usually because the password was changed there.
 * Such a refusal says nothing about rights, so it ends none, but the operator has to be told.
 */
export class OwnLogins {
  readonly #options: OwnLoginsOptions;
  readonly #verdicts = new Map<string, Verdict>();
  readonly #flights = new SingleFlight<boolean | undefined>();
  /** The upstreams that were reported last. */
  #reported: readonly string[] = [];

  constructor(options: OwnLoginsOptions) {
    this.#options = options;
  }

  /** A sentence for each upstream that refuses the credential, for `/readyz` and `status`. */
  get problems(): readonly string[] {
    return [...this.#verdicts.keys()].filter(upstream => this.#isRefused(upstream)).map(problemText);
  }

  /** The message for a pull that would use the refused credential. */
  problemsOf(upstream: string, { credentials }: Pick<Right, 'credentials'>): readonly string[] {
    const isUsed = credentials.some(
      one => one !== undefined && this.#isOwn({ upstream, credentialId: one.id }),
    );
    return isUsed && this.#isRefused(upstream) ? [pullText(upstream)] : [];
  }

  /** `undefined` if there are none for the upstream. */
  stateOf(upstream: string): OwnLoginState | undefined {
    const login = this.#options.loginOf(upstream);
    if (login === undefined) return undefined;
    const verdict = this.#verdicts.get(upstream);
    const isCurrent = verdict?.credentialId === login.id;
    return {
      username: login.username,
      isAccepted: isCurrent ? verdict.isAccepted : undefined,
      atMs: isCurrent ? verdict.atMs : undefined,
    };
  }

  /** Sets the gauge for every upstream with a credential. */
  report(): void {
    const { upstreams, loginOf, meter } = this.#options;
    for (const upstream of new Set([...upstreams.keys(), ...this.#reported])) {
      const value = loginOf(upstream) === undefined ? undefined : Number(this.#isRefused(upstream));
      meter.gauge('upstream_credentials_refused', value, { upstream });
    }
    this.#reported = [...upstreams.keys()];
  }

  /**
   * The meaning of a refusal of a request with Entrepot's own credential: `lockedOut` if upstream refuses the
   * credential itself, `denied` if it only refuses the request. Some registries answer the same to both, so upstream is
   * asked about the credential alone. Other failures, and those of other credentials, are returned unchanged.
   */
  async judge(use: LoginUse, failure: UpstreamFailure, signal: AbortSignal): Promise<UpstreamFailure> {
    const { kind, message, status, code, endpoint } = failure;
    const isRefusal = kind === 'refused' || kind === 'denied';
    // A mirror of the upstream has credentials of its own.
    if (!isRefusal || (endpoint ?? 0) !== 0 || !this.#isOwn(use)) return failure;
    const isAccepted = await this.#isAccepted(use, signal, failure);
    const details = { status, code, endpoint, cause: failure };
    return new UpstreamFailure(isAccepted ? 'denied' : 'lockedOut', message, details);
  }

  /**
   * Call when upstream has answered successfully. A refused credential is checked again, since the answer alone proves
   * nothing: public content is served even with a wrong password. If upstream says nothing about credentials, the
   * answer ends a refusal that was only concluded.
   */
  succeeded(use: LoginUse, signal: AbortSignal): void {
    if (!this.#isOwn(use) || !this.#isRefused(use.upstream)) return;
    // Rejects only with the signal's reason, and then the verdict stays.
    this.#isAccepted(use, signal).catch(() => {});
  }

  #isOwn({ upstream, credentialId }: LoginUse): boolean {
    return this.#options.loginOf(upstream)?.id === credentialId;
  }

  #isRefused(upstream: string): boolean {
    const verdict = this.#verdicts.get(upstream);
    return verdict?.isAccepted === false && this.#isOwn({ upstream, credentialId: verdict.credentialId });
  }

  /**
   * If upstream does not say whether it accepts the credential and nothing can be concluded, the last verdict stays.
   */
  async #isAccepted(use: LoginUse, signal: AbortSignal, failure?: UpstreamFailure): Promise<boolean> {
    const { upstream, credentialId } = use;
    const { upstreams, loginOf } = this.#options;
    const recent = this.#recent(use, failure);
    if (recent !== undefined) return recent;
    const { promise } = this.#flights.run(`${upstream} ${credentialId}`, async () => {
      const login = loginOf(upstream);
      return login && (await upstreams.get(upstream)?.acceptsLogin(login, signal));
    });
    const said = await promise;
    const isAccepted = said ?? this.#believed(use, failure);
    if (isAccepted === undefined) return !this.#isRefused(upstream);
    this.#note(use, { isAccepted, isSaid: said !== undefined }, failure?.message);
    return isAccepted;
  }

  /**
   * What to conclude if upstream does not say: a refusal counts as one of the credential, and a success ends it unless
   * upstream itself said so.
   */
  #believed({ upstream }: LoginUse, failure: UpstreamFailure | undefined): boolean | undefined {
    if (failure === undefined) return this.#verdicts.get(upstream)?.isSaid === false ? true : undefined;
    return failure.kind === 'refused' ? false : undefined;
  }

  /** The recent verdict, unless the failure contradicts it. */
  #recent({ upstream, credentialId }: LoginUse, failure: UpstreamFailure | undefined): boolean | undefined {
    const known = this.#verdicts.get(upstream);
    if (known?.credentialId !== credentialId) return undefined;
    const ageMs = Math.abs(this.#options.nowMs() - known.atMs);
    if (!known.isAccepted) return ageMs < REFUSED_FOR_MS ? false : undefined;
    return ageMs < ACCEPTED_FOR_MS && failure?.kind === 'denied' ? true : undefined;
  }

  #note(
    { upstream, credentialId }: LoginUse,
    { isAccepted, isSaid }: Pick<Verdict, 'isAccepted' | 'isSaid'>,
    reason: string | undefined,
  ): void {
    const wasRefused = this.#isRefused(upstream);
    // What upstream itself said outlasts a conclusion.
    const wasSaid = wasRefused && this.#verdicts.get(upstream)?.isSaid === true;
    const atMs = this.#options.nowMs();
    this.#verdicts.set(upstream, { credentialId, isAccepted, isSaid: isSaid || wasSaid, atMs });
    if (wasRefused !== isAccepted) return;
    const { log, loginOf } = this.#options;
    const username = loginOf(upstream)?.username;
    if (isAccepted) {
      log.info({ upstream, username }, "upstream accepts Entrepot's credentials again");
      return;
    }
    log.error(
      { upstream, username, reason },
      `${ownLoginRefusedBy(upstream)}: content that was stored with them is still served, and nothing new is fetched with them; ` +
        'correct upstreams.*.credentials, then send SIGHUP or restart',
    );
  }
}

/** Upstream is still asked with them, since it may accept them again. */
function pullText(upstream: string): string {
  return `${ownLoginRefusedBy(upstream)}: unless it accepts them again, nothing new is fetched with them`;
}

function problemText(upstream: string): string {
  return `${ownLoginRefusedBy(upstream)}: stored content is served, nothing new is fetched with them`;
}
