import type { StoreStatus } from '../../admin/documents/status.ts';
import { bytesText, numberText, quantityText } from '../format.ts';
import { Ago, Badge, ShareBar } from './text.tsx';

/** What is wrong with a bucket, and what may help. */
const TROUBLES: Readonly<Record<NonNullable<NonNullable<StoreStatus['bucket']>['trouble']>['kind'], string>> =
  {
    noCredentials: 'this server has no credentials for it',
    unreachable: 'it cannot be reached',
    busy: 'it cannot handle requests at the moment',
    refused: 'it refuses the credentials or the permissions of this server',
    missing: 'the bucket, or everything in it, is gone',
  };
const CONSEQUENCES =
  'Meanwhile only blobs that are also here are served, pushes are refused, and downloads are not stored.';

/** How full the store and its disk are. */
export function StoreFacts({
  store: { heldBytes, unfinishedBytes, maxBytes, freeBytes, minFreeBytes, blobs, damaged, bucket, local },
}: {
  readonly store: Pick<
    StoreStatus,
    'heldBytes' | 'unfinishedBytes' | 'maxBytes' | 'freeBytes' | 'minFreeBytes' | 'damaged'
  > &
    Partial<Pick<StoreStatus, 'bucket' | 'local'>> & { readonly blobs?: number };
}) {
  return (
    <>
      {maxBytes !== null && (
        <ShareBar value={(heldBytes + unfinishedBytes) / maxBytes} label="Used, of storage.maxBytes" />
      )}
      <dl class="facts">
        <dt>Stored</dt>
        <dd>
          {bytesText(heldBytes)}
          {maxBytes !== null && ` of ${bytesText(maxBytes)}`}
          {blobs !== undefined && ` in ${quantityText(blobs, 'blob')}`}
        </dd>
        {bucket && (
          <>
            <dt>Kept in</dt>
            <dd>
              {bucket.name}{' '}
              {bucket.trouble === null ? (
                <Badge tone="good">in use</Badge>
              ) : (
                <>
                  <Badge tone="bad">not in use</Badge> since <Ago at={bucket.trouble.since} />:{' '}
                  {TROUBLES[bucket.trouble.kind]}. {CONSEQUENCES}
                </>
              )}
            </dd>
          </>
        )}
        {local && (
          <>
            <dt>Local copies</dt>
            <dd title="At most storage.maxLocalBytes">
              {bytesText(local.bytes)} of {bytesText(local.maxBytes)} in {quantityText(local.copies, 'blob')}
            </dd>
          </>
        )}
        <dt>Unfinished</dt>
        <dd>{bytesText(unfinishedBytes)}</dd>
        <dt>Free on the disk</dt>
        <dd class={freeBytes < minFreeBytes ? 'bad' : ''}>
          {bytesText(freeBytes)}
          {freeBytes < minFreeBytes
            ? `, less than storage.minFree (${bytesText(minFreeBytes)})`
            : `, of which ${bytesText(minFreeBytes)} stay free`}
        </dd>
        <dt>Damaged</dt>
        <dd class={damaged > 0 ? 'bad' : ''}>{damaged === 0 ? 'nothing known' : numberText(damaged)}</dd>
      </dl>
    </>
  );
}
