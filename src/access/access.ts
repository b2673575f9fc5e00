/**
 * access/: who is asking, and what they may. May import tenants/, metadata/, oci/ and lib/.
 *
 * The one idea: a right to mirrored content is proved upstream, per credential and repository, and remembered as a
 * Grant; nothing that is merely held here ever makes one.
 */
import { ANONYMOUS_ID, type Credential, credentialId } from '../oci/credential.ts';
import { OciError } from '../oci/errors.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { ANONYMOUS, type Requester, type Right } from '../oci/requester.ts';
import type { Grants } from './grants.ts';

export type Action = 'pull' | 'push' | 'delete';

/** What the configuration says of one mirrored repository. */
export interface UpstreamRule {
  /** The upstream's own credential, if it has one. */
  readonly credential: Credential | undefined;
  /** Anonymous clients may read all that this credential may. */
  readonly openToAll: boolean;
}

export interface AccessOptions {
  readonly grants: Grants;
  readonly upstreamRule: (repository: Repository) => UpstreamRule;
  /** What anybody may do with repositories that live here. */
  readonly hostedAnonymous: 'none' | 'pull' | 'push';
}

/** Decides for each request before `mirror` or `hosted` sees it. */
export class Access {
  readonly #options: AccessOptions;

  constructor(options: AccessOptions) {
    this.#options = options;
  }

  /** Who presents these headers. Nobody can log in yet, so what a client sends unasked is not looked at. */
  async authenticate(): Promise<Requester> {
    return ANONYMOUS;
  }

  /** The requester's right to `action`, or an OciError: 404 where it may not even be known whether the repository exists. */
  async authorize(requester: Requester, repository: Repository, action: Action): Promise<Right> {
    return repository.upstream === ''
      ? this.#authorizeHosted(requester, repository, action)
      : this.#authorizeMirrored(requester, repository, action);
  }

  /** The right of the one who runs this registry, on the command line: with the upstream's own credential, where it has one. */
  operatorRight(repository: Repository): Right {
    const { credential } = this.#options.upstreamRule(repository);
    return {
      requester: { tenant: undefined, id: 'operator' },
      credentials: credential === undefined ? [undefined] : [credential, undefined],
      proved: true,
      provedIfUnreachable: false,
    };
  }

  #authorizeHosted(requester: Requester, repository: Repository, action: Action): Right {
    const { hostedAnonymous } = this.#options;
    if (hostedAnonymous === 'none') {
      throw new OciError('NAME_UNKNOWN', { detail: { name: repositoryText(repository) } });
    }
    if (action !== 'pull' && hostedAnonymous !== 'push') {
      throw new OciError('DENIED', {
        message: `nobody may ${action} here: set hosted.anonymous to push to allow it`,
        detail: { name: repositoryText(repository) },
      });
    }
    return { requester, credentials: [], proved: true, provedIfUnreachable: false };
  }

  async #authorizeMirrored(requester: Requester, repository: Repository, action: Action): Promise<Right> {
    if (action !== 'pull') {
      throw new OciError('UNSUPPORTED', {
        message: `${repositoryText(repository)} is a mirror of ${repository.upstream}: it can only be pulled`,
      });
    }
    const { credential, openToAll } = this.#options.upstreamRule(repository);
    if (credential !== undefined && openToAll) {
      const state = await this.#options.grants.stateOf(repository, [credential.id, ANONYMOUS_ID]);
      return { requester, credentials: [credential], ...state };
    }
    const state = await this.#options.grants.stateOf(repository, [credentialId(undefined)]);
    // A public repository is fetched with the upstream's own credential, which has the larger budget.
    const ownFirst = state.proved && credential !== undefined;
    return { requester, credentials: ownFirst ? [credential, undefined] : [undefined], ...state };
  }
}
