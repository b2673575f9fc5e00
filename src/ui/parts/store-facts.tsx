import type { StoreStatus } from '../../admin/documents/status.ts';
import { bytesText, numberText, quantityText } from '../format.ts';
import { ShareBar } from './text.tsx';

/** How full the store and its disk are. */
export function StoreFacts({
  store: { heldBytes, unfinishedBytes, maxBytes, freeBytes, minFreeBytes, blobs, damaged },
}: {
  readonly store: Pick<
    StoreStatus,
    'heldBytes' | 'unfinishedBytes' | 'maxBytes' | 'freeBytes' | 'minFreeBytes' | 'damaged'
  > & { readonly blobs?: number };
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
