// What upkeep does with the records of hosted images.
import type { HostedRecord } from '../image-record.ts';
import type { Side } from './side.fixture.ts';

/** Keeps the records of all images that are not recorded, and returns all that are kept, in the order of their names. */
export async function keepRecords({ stores: [store], records }: Side): Promise<[string, HostedRecord][]> {
  for (const image of await store.listUnrecorded(1_000)) {
    const key = `${image.name} ${image.digest}`;
    const record = await store.readImageRecord(image);
    if (record === undefined) records.delete(key);
    else records.set(key, record);
    await store.noteRecorded(image);
  }
  return [...records].toSorted(([one], [other]) => (one < other ? -1 : 1));
}
