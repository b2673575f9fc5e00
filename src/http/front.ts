/**
 * http/: the OCI Distribution API on Koa. May import everything below it.
 *
 * The one idea: a request is parsed once (`path.ts`, `oci/repository-resolver.ts`) into a value that cannot be wrong, passes
 * `Access`, and is answered by one handler file per spec noun from a `PullSource`. Errors are written in `problem.ts`
 * alone, bodies in `body-writer.ts` and `whole-bodies.ts` alone, and the log line in `response-log.ts` when the socket is done.
 *
 * This file says what http needs from below.
 */
import type { Sender, Subject } from '../access/subject.ts';
import type { Repository } from '../oci/repository.ts';
import type { Requester } from '../oci/requester.ts';

/** Who is asking, and what they may. Implemented by `access/`. */
export interface RequestAccess {
  /** Never throws for a missing credential. A wrong one is reported when it is used. */
  authenticate(sender: Sender): Promise<Subject>;
}

/** One request as the audit log tells it: who did what, and what came of it. */
export interface Deed {
  readonly requester: Requester | undefined;
  /** The user name that was presented, where the request was refused and it proved nothing; cut to 256 characters. */
  readonly username: string | undefined;
  readonly remote: string;
  /** `login`, `list`, `pull`, `push` or `delete`. */
  readonly action: string;
  readonly repository: Repository | undefined;
  readonly reference: string | undefined;
  readonly outcome: 'allowed' | 'refused' | 'failed';
  readonly reason: string | undefined;
}

/** Told of every request that passed or was turned away; absent, nobody keeps them. */
export type RecordDeed = (deed: Deed) => void;
