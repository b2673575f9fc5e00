import type { OciError } from '../oci/errors.ts';
import type { PullTarget } from '../oci/pull-read.ts';
import type { Repository } from '../oci/repository.ts';
import type { Requester, Right } from '../oci/requester.ts';

/** What a request does in a repository. */
export type Action = 'pull' | 'push' | 'delete';

/** All actions, in ascending order of what they allow. */
export const ACTIONS: readonly Action[] = ['pull', 'push', 'delete'];

/** What is known about the sender of a request, with trusted proxies taken into account. */
export interface Sender {
  /** What all requests of one connection have in common, and no others. */
  readonly connection: object;
  /** The `Authorization` header as received. Never logged. */
  readonly authorization: string | undefined;
  /** The client's address. */
  readonly remote: string;
  /** Whether the connection to the client uses TLS, here or at a trusted proxy. */
  readonly secure: boolean;
  /** Whether the client is on this machine and no proxy forwarded the request. */
  readonly loopback: boolean;
  /** The `Host` header as received. It becomes part of the realm of a challenge. */
  readonly host: string | undefined;
  /** The upstream that this listener or host alias belongs to, if any. */
  readonly upstreamListener: string | undefined;
  /** Whether that is known from the Host header. */
  readonly byHostAlias: boolean;
  /** Whether `?ns=` names a known upstream, as containerd sends it. */
  readonly byNamespace: boolean;
}

/**
 * An authenticated request. Who its sender is can depend on the repository: a credential for an upstream identifies a
 * tenant only for images of that upstream.
 */
export interface Subject {
  /** As far as it is known before a repository is named. */
  readonly requester: Requester;
  /** For `GET /v2/`: throws UNAUTHORIZED with a challenge if the sender should log in first. */
  admit(): Promise<void>;
  /**
   * The right to one action on one repository. Throws an OciError: not found, DENIED, or UNAUTHORIZED with a challenge.
   * `target`: what will be pulled, so that the index is asked about it at once (`Right.ahead`).
   */
  authorize(repository: Repository, action: Action, target?: PullTarget): Promise<Right>;
  /** Whether a listing may show the repository to the sender. */
  maySee(repository: Repository): Promise<boolean>;
  /**
   * The error to send when a source refused: the same error, or a challenge instead. `isExistenceCheck`: the request
   * only asks whether something exists, as clients do before they push it.
   */
  refusal(
    error: OciError,
    repository: Repository,
    action: Action,
    isExistenceCheck: boolean,
  ): Promise<OciError>;
}
