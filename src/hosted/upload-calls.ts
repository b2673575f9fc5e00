import { randomUUID } from 'node:crypto';
import type { Digest } from '../oci/digest.ts';
import type { Repository } from '../oci/repository.ts';
import type { Requester } from '../oci/requester.ts';
import type { Arrived, Chunk } from './chunk.ts';

/** An upload as the client sees it. */
export interface UploadState {
  readonly id: string;
  /** Bytes received. */
  readonly offset: number;
}

/**
 * What requests do with an upload that has begun, wherever its bytes are. As in `Uploads`. A change rejects with
 * PresenceEnded, and does nothing, if that in which its request arrived has ended: the client may have sent the request to
 * another process since, and gone on.
 */
export interface UploadCalls {
  status(requester: Requester, repository: Repository, id: string): Promise<UploadState>;
  append(requester: Requester, repository: Repository, id: string, chunk: Chunk): Promise<UploadState>;
  complete(
    requester: Requester,
    repository: Repository,
    id: string,
    digest: Digest,
    chunk: Chunk,
  ): Promise<void>;
  cancel(requester: Requester, repository: Repository, id: string, arrived: Arrived): Promise<void>;
}

/** The length of a UUID. */
const UUID_CHARACTERS = 36;

/** An id of an upload that `replica` has begun, if there may be several. */
export function newUploadId(replica: string | undefined): string {
  return replica === undefined ? randomUUID() : `${randomUUID()}-${replica}`;
}

/** The id of the replica that has begun an upload; `undefined` if there was only one. */
export function replicaOfUpload(id: string): string | undefined {
  return id.length > UUID_CHARACTERS ? id.slice(UUID_CHARACTERS + 1) : undefined;
}
