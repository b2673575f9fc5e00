/**
 * http/: the OCI Distribution API on Koa. May import everything below it.
 *
 * The main idea: a request is parsed once (`path.ts`, `oci/repository-resolver.ts`) into a value that cannot be wrong,
 * authorized by `RequestAccess`, and answered from a `PullSource` by one handler file for each noun of the
 * specification. Only `problem.ts` writes errors, only `body-writer.ts` and `whole-bodies.ts` write bodies, and
 * `response-log.ts` writes the log line when the response has ended.
 *
 * This file declares what http needs from the layers below.
 */
import type { Sender, Subject } from '../access/subject.ts';
import type { Repository } from '../oci/repository.ts';
import type { Requester } from '../oci/requester.ts';

/** Authenticates requests. Implemented by `access/`. */
export interface RequestAccess {
  /** Never throws for missing credentials. Wrong ones are reported when they are used. */
  authenticate(sender: Sender): Promise<Subject>;
}

/** A request for the audit log: who did what, and the result. */
export interface Deed {
  readonly requester: Requester | undefined;
  /** The user name in a request that was refused and proved nothing, cut to 256 characters. */
  readonly username: string | undefined;
  readonly remote: string;
  /** `login`, `list`, `pull`, `push` or `delete`. */
  readonly action: string;
  readonly repository: Repository | undefined;
  readonly reference: string | undefined;
  readonly outcome: 'allowed' | 'refused' | 'failed';
  readonly reason: string | undefined;
}

/** Called for every request, allowed or refused; absent if there is no audit log. */
export type RecordDeed = (deed: Deed) => void;
