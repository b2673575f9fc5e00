import { repositoryText } from '../oci/repository.ts';
import type { Exchange } from './exchange.ts';
import { referenceOf } from './path.ts';

/** What a client was refused, for the operator. */
export interface Refusal {
  /** Epoch ms; of several, of the last. */
  readonly atMs: number;
  /** How many equal ones this is. */
  readonly times: number;
  /** `Requester.id`, or `unknown` if it was not found out. */
  readonly requester: string;
  readonly remote: string;
  readonly repository: string | undefined;
  readonly reference: string | undefined;
  readonly method: string;
  readonly status: number;
  /** As in `OciError`. */
  readonly code: string;
  readonly reason: string;
}

/** Longer ones come from upstreams or clients. */
const MAX_REASON_LENGTH = 1_000;

/** `undefined` if nothing was refused, or only what clients ask for to find out how to go on. */
export function refusalOf(exchange: Exchange): Refusal | undefined {
  const { problem, route, repository, requester, sender, method } = exchange;
  if (problem === undefined) return undefined;
  // Every client begins without credentials, and every push asks which blobs are there.
  const isChallenge = problem.code === 'UNAUTHORIZED' && sender.authorization === undefined;
  if (isChallenge || (problem.code === 'BLOB_UNKNOWN' && method === 'HEAD')) return undefined;
  return {
    atMs: Date.now(),
    times: 1,
    requester: requester?.id ?? 'unknown',
    remote: sender.remote,
    repository: repository && repositoryText(repository),
    reference: route && referenceOf(route),
    method,
    status: problem.status,
    code: problem.code,
    reason: problem.reason.slice(0, MAX_REASON_LENGTH),
  };
}
