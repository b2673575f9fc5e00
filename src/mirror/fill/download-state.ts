import type { Digest } from '../../oci/digest.ts';

/** What is being requested from an upstream, or waits for that. For people. */
export interface DownloadState {
  /**
   * `whole`: a blob that is stored in the end; `ranges`: what clients request of one besides; `streamed`: one that is sent to a
   * client as it arrives, since there is no room to store it.
   */
  readonly kind: 'whole' | 'ranges' | 'streamed';
  /** `repositoryText` of the first requester's repository. */
  readonly repository: string;
  readonly digest: Digest;
  /** `queued`: waiting for its turn. */
  readonly state: 'queued' | 'downloading';
  /** How much is there from its beginning on; of ranges, how much came of those that were requested. */
  readonly bytes: number;
  /** How much is there behind the first missing byte: what clients have requested, or further connections have brought. */
  readonly aheadBytes: number;
  /** How much it will be in the end; `undefined` while unknown. */
  readonly size: number | undefined;
  readonly readers: number;
  /** The `Requester.id`s of those that wait for it. */
  readonly requesters: readonly string[];
  readonly startedAtMs: number;
  /** The other process that downloads it, as in `LeaseState`; `undefined` if this one does. */
  readonly holder: string | undefined;
}
