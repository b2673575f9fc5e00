/**
 * http/: the OCI Distribution API on Koa. May import everything below it.
 *
 * The one idea: a request is parsed once at the door (`path.ts`, `naming.ts`) into a value that cannot be wrong, passes
 * `Access`, and is answered by one handler file per spec noun from a `PullSource`. Errors are written in `problem.ts`
 * alone, bodies in `body-writer.ts` alone, and the log line in `response-log.ts` when the socket is done.
 *
 * This file says what http needs from below.
 */
import type { OciError } from '../oci/errors.ts';
import type { Repository } from '../oci/repository.ts';
import type { Requester, Right } from '../oci/requester.ts';

export type Action = 'pull' | 'push' | 'delete';

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
  /** `?ns=` was given and known: containerd asks on behalf of an upstream's name. */
  readonly byNamespace: boolean;
}

/** Who is asking, and what they may. Implemented by `access/`. */
export interface Access {
  /** Never throws for a missing credential; UNAUTHORIZED for one that is wrong. */
  authenticate(sender: Sender): Promise<Requester>;
  /** `GET /v2/`: UNAUTHORIZED with a challenge where this requester should log in first. Absent: everybody may look. */
  admit?(requester: Requester, sender: Sender): Promise<void>;
  /** The right to one action on one repository, or an OciError: of the 404 class, or UNAUTHORIZED with its challenge. */
  authorize(requester: Requester, repository: Repository, action: Action, sender: Sender): Promise<Right>;
  /** What the client hears when a source refused: the same error, or a challenge in its place. Absent: the same. */
  refusal?(
    error: OciError,
    requester: Requester,
    repository: Repository,
    action: Action,
    sender: Sender,
  ): OciError;
}
