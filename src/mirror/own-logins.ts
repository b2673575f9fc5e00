import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import { SingleFlight } from '../lib/single-flight.ts';
import type { Credential } from '../oci/credential.ts';
import { UpstreamFailure } from '../upstream/failures.ts';
import type { Upstream } from '../upstream/upstream.ts';

/** A refused login is asked about again no sooner than what it was refused for. */
const REFUSED_FOR_MS = 10_000;
/**
 * An accepted one is believed for so long while things are denied to it, or clients could cause a storm of log-ins. It is
 * short because, when the password is changed meanwhile, these denials end rights.
 */
const ACCEPTED_FOR_MS = 1_000;

export interface OwnLoginsOptions {
  readonly upstreams: ReadonlyMap<string, Pick<Upstream, 'acceptsLogin'>>;
  /** The login that the configuration gives Entrepot for an upstream; asked each time. */
  readonly loginOf: (upstream: string) => Credential | undefined;
  readonly log: Log;
  readonly meter: Meter;
  readonly nowMs: () => number;
}

/** Whose request upstream answered. */
export interface LoginUse {
  readonly upstream: string;
  readonly credentialId: string;
}

interface Verdict {
  /** A new password in the configuration makes the verdict on the old one void. */
  readonly credentialId: string;
  readonly isAccepted: boolean;
  /** Upstream said so when it was asked about the login alone; else its answers to other questions are believed. */
  readonly isSaid: boolean;
  readonly atMs: number;
}

/**
 * Entrepot's own logins at upstreams, and which of them are refused as such: usually the password was changed there. That
 * says nothing about who may read what, so it ends nobody's right; whoever runs Entrepot has to hear of it.
 */
export class OwnLogins {
  readonly #options: OwnLoginsOptions;
  readonly #verdicts = new Map<string, Verdict>();
  readonly #flights = new SingleFlight<boolean | undefined>();

  constructor(options: OwnLoginsOptions) {
    this.#options = options;
  }

  /** For people: a sentence for each upstream that refuses the login. */
  get problems(): readonly string[] {
    return [...this.#verdicts.keys()]
      .filter(upstream => this.#isRefused(upstream))
      .map(
        upstream => `${refusedText(upstream)}: stored content is served, nothing new is fetched with them`,
      );
  }

  /** Sets the gauge of every upstream that has a login. */
  report(): void {
    const { upstreams, loginOf, meter } = this.#options;
    for (const upstream of new Set([...upstreams.keys(), ...this.#verdicts.keys()])) {
      const value = loginOf(upstream) === undefined ? undefined : Number(this.#isRefused(upstream));
      meter.gauge('upstream_credentials_refused', value, { upstream });
    }
  }

  /**
   * What a refusal means when Entrepot asked with its own login: `lockedOut` if upstream refuses the login itself, `denied`
   * if it only refuses what was asked for. Some registries answer both alike, so upstream is asked about the login alone.
   * Any other failure, or anybody else's, is returned as it is.
   */
  async judge(use: LoginUse, failure: UpstreamFailure, signal: AbortSignal): Promise<UpstreamFailure> {
    const { kind, message, status, code, endpoint } = failure;
    const isRefusal = kind === 'refused' || kind === 'denied';
    // A mirror of the upstream has a login of its own.
    if (!isRefusal || (endpoint ?? 0) !== 0 || !this.#isOwn(use)) return failure;
    const isAccepted = await this.#isAccepted(use, signal, failure);
    const details = { status, code, endpoint, cause: failure };
    return new UpstreamFailure(isAccepted ? 'denied' : 'lockedOut', message, details);
  }

  /**
   * Upstream answered. A refused login is checked again, since the answer alone proves nothing: public content is given to
   * a wrong password too. Where upstream never says, it lifts what was only believed.
   */
  succeeded(use: LoginUse, signal: AbortSignal): void {
    if (!this.#isOwn(use) || !this.#isRefused(use.upstream)) return;
    // Rejects with the signal's reason alone: the verdict stays.
    this.#isAccepted(use, signal).catch(() => {});
  }

  #isOwn({ upstream, credentialId }: LoginUse): boolean {
    return this.#options.loginOf(upstream)?.id === credentialId;
  }

  #isRefused(upstream: string): boolean {
    const verdict = this.#verdicts.get(upstream);
    return verdict?.isAccepted === false && this.#isOwn({ upstream, credentialId: verdict.credentialId });
  }

  /** Where upstream does not say, and gives nothing to believe either, the last verdict counts. */
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

  /** A refusal of the login is believed, and lifted by an answer if upstream itself never said so. */
  #believed({ upstream }: LoginUse, failure: UpstreamFailure | undefined): boolean | undefined {
    if (failure === undefined) return this.#verdicts.get(upstream)?.isSaid === false ? true : undefined;
    return failure.kind === 'refused' ? false : undefined;
  }

  /** What was found a moment ago, unless the failure speaks against it. */
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
    // What upstream itself said outlasts a belief.
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
      `${refusedText(upstream)}: content that was stored with them is still served, and nothing new is fetched with them; ` +
        'correct upstreams.*.credentials, then send SIGHUP or restart',
    );
  }
}

/** What operators and clients hear. */
export function refusedText(upstream: string): string {
  return `upstream refused Entrepot's credentials for ${upstream}`;
}
