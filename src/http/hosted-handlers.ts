import type { OutgoingHttpHeaders } from 'node:http';
import type { Digest } from '../oci/digest.ts';
import type { Repository } from '../oci/repository.ts';
import type { Requester, Right } from '../oci/requester.ts';
import type { Exchange } from './exchange.ts';
import type { Action } from '../access/subject.ts';

/** An authorized request: who, where, and with which right. */
export interface Call {
  /**
   * Read the request body from `exchange.req`; respond with `answer(exchange, status, headers, body?)` or throw an
   * OciError.
   */
  readonly exchange: Exchange;
  readonly repository: Repository;
  /**
   * The name as in the path, including a prefix for the upstream: `Location` and `Link` are built from it (`pathTo`).
   */
  readonly name: string;
  readonly requester: Requester;
  readonly right: Right;
  /** This requester's right to another repository, such as the source of a mount; throws OciError. */
  authorize(repository: Repository, action: Action): Promise<Right>;
}

/** A request for a manifest. */
export interface ManifestCall extends Call {
  /** A tag or a digest, already validated. */
  readonly reference: string;
}

/** A request for a blob. */
export interface BlobCall extends Call {
  readonly digest: Digest;
}

/** A request for an upload. */
export interface UploadCall extends Call {
  /** `[A-Za-z0-9_-]{1,128}`. The handler checks that it belongs to this repository and requester. */
  readonly id: string;
}

/** A request for the catalog. */
export interface CatalogCall {
  readonly exchange: Exchange;
  /** Whether the requester may know of the repository. */
  maySee(repository: Repository): Promise<boolean>;
  /** Sends the list as JSON. */
  send(headers: OutgoingHttpHeaders, list: unknown): Promise<void>;
}

/** The write side of the API, for hosted repositories. Each handler sends a response or throws. */
export interface HostedHandlers {
  /** PUT /v2/NAME/manifests/REFERENCE */
  putManifest(call: ManifestCall): Promise<void>;
  /** DELETE /v2/NAME/manifests/REFERENCE */
  deleteManifest(call: ManifestCall): Promise<void>;
  /** DELETE /v2/NAME/blobs/DIGEST */
  deleteBlob(call: BlobCall): Promise<void>;
  /** POST /v2/NAME/blobs/uploads/: a new upload, a whole blob (`?digest=`), or a mount (`?mount=&from=`) */
  startUpload(call: Call): Promise<void>;
  /** GET /v2/NAME/blobs/uploads/ID */
  readUpload(call: UploadCall): Promise<void>;
  /** PATCH */
  appendUpload(call: UploadCall): Promise<void>;
  /** PUT `?digest=` */
  finishUpload(call: UploadCall): Promise<void>;
  /** DELETE */
  cancelUpload(call: UploadCall): Promise<void>;
  /** GET /v2/_catalog */
  catalog(call: CatalogCall): Promise<void>;
}
