import { type BundleRecord, recordBundle } from '../metadata/bundle-records.ts';
import type { Parts } from '../compose/parts.ts';
import type { Io } from './command.ts';

/**
 * Remembers a bundle, for `GET /bundles` and the page. The bundle is made or taken in by then: that it is not remembered is
 * only worth a warning.
 */
export async function noteBundle(
  { metadata }: Pick<Parts, 'metadata'>,
  io: Pick<Io, 'err'>,
  {
    file,
    names,
    ...bundle
  }: Pick<BundleRecord, 'kind' | 'names' | 'blobs' | 'bytes'> & { readonly file: string },
): Promise<void> {
  const named = file === '-' ? undefined : file;
  const record = { ...bundle, atMs: Date.now(), file: named, images: names.length, names };
  const isRecorded = await recordBundle(metadata, record).catch(() => false);
  if (!isRecorded) io.err('the index does not remember this bundle: it could not be written at the moment\n');
}
