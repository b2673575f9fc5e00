import type { OciError } from '../oci/errors.ts';
import type { Repository } from '../oci/repository.ts';
import type { Requester, Right } from '../oci/requester.ts';

export type Action = 'pull' | 'push' | 'delete';

export const ACTIONS: readonly Action[] = ['pull', 'push', 'delete'];

/** What a request says about its sender, with proxies that are trusted looked through. */
export interface Sender {
  /** The `Authorization` header as received. Never logged. */
  readonly authorization: string | undefined;
  /** The client's address. */
  readonly remote: string;
  /** The connection to the client is TLS, here or at a trusted proxy. */
  readonly secure: boolean;
  /** The client runs on this machine, and nothing forwarded the request. */
  readonly loopback: boolean;
  /** The `Host` header as received; with `secure` it makes the absolute realm of a challenge. */
  readonly host: string | undefined;
  /** The upstream that this listener or host alias belongs to. */
  readonly upstreamListener: string | undefined;
  /** It is the Host header that says so. */
  readonly byHostAlias: boolean;
  /** `?ns=` was given and known: containerd asks on behalf of an upstream's name. */
  readonly byNamespace: boolean;
}

/**
 * One at the door. Who that is may depend on what is asked for: a credential for an upstream says something only where
 * images of that upstream are meant.
 */
export interface Subject {
  /** As far as it is known before a repository is named. */
  readonly requester: Requester;
  /** `GET /v2/`: UNAUTHORIZED with a challenge where this one should log in first. */
  admit(): Promise<void>;
  /** The right to one action on one repository, or an OciError: of the 404 class, DENIED, or UNAUTHORIZED with its challenge. */
  authorize(repository: Repository, action: Action): Promise<Right>;
  /** Whether a listing may show this one the repository. */
  maySee(repository: Repository): Promise<boolean>;
  /** What the client hears when a source refused: the same error, or a challenge in its place. */
  refusal(error: OciError, repository: Repository, action: Action): Promise<OciError>;
}
