import { OciError } from '../oci/errors.ts';
import { replicaOfUpload, type UploadCalls } from './upload-calls.ts';
import type { Uploads } from './uploads.ts';

/** The uploads that clients of this process see. */
export type ClientUploads = UploadCalls & Pick<Uploads, 'begin' | 'push' | 'mount'>;

/**
 * The uploads of all replicas. Each belongs to the one that has begun it, whose disk has its bytes: what others receive for
 * it, they pass on, after having decided who may.
 */
export class SharedUploads implements ClientUploads {
  readonly #own: Uploads;
  readonly #replica: string;
  readonly #others: (replica: string) => Promise<UploadCalls | undefined>;

  /** `others` finds another replica by its id; `undefined` if there is none. */
  constructor(own: Uploads, replica: string, others: (replica: string) => Promise<UploadCalls | undefined>) {
    this.#own = own;
    this.#replica = replica;
    this.#others = others;
  }

  begin(...given: Parameters<Uploads['begin']>) {
    return this.#own.begin(...given);
  }

  push(...given: Parameters<Uploads['push']>) {
    return this.#own.push(...given);
  }

  mount(...given: Parameters<Uploads['mount']>) {
    return this.#own.mount(...given);
  }

  async status(...given: Parameters<UploadCalls['status']>) {
    return (await this.#ownerOf(given[2])).status(...given);
  }

  async append(...given: Parameters<UploadCalls['append']>) {
    return (await this.#ownerOf(given[2])).append(...given);
  }

  async complete(...given: Parameters<UploadCalls['complete']>) {
    return (await this.#ownerOf(given[2])).complete(...given);
  }

  async cancel(...given: Parameters<UploadCalls['cancel']>) {
    return (await this.#ownerOf(given[2])).cancel(...given);
  }

  /** If the replica is gone, so is the upload: clients begin again. */
  async #ownerOf(id: string): Promise<UploadCalls> {
    const replica = replicaOfUpload(id);
    if (replica === this.#replica) return this.#own;
    const owner = replica === undefined ? undefined : await this.#others(replica);
    if (owner === undefined) throw new OciError('BLOB_UPLOAD_UNKNOWN');
    return owner;
  }
}
