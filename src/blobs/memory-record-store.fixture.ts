import { type RecordStore, requireRecordName, RecordTooLarge } from './record-store.ts';

const inAsciiOrder = (a: string, b: string) => (a < b ? -1 : 1);

/** Records in memory. */
export class MemoryRecordStore implements RecordStore {
  readonly records = new Map<string, Uint8Array>();

  async put(name: string, bytes: Uint8Array): Promise<void> {
    this.records.set(requireRecordName(name), Buffer.from(bytes));
  }

  async read(name: string, maxBytes: number) {
    const bytes = this.records.get(requireRecordName(name));
    if (bytes !== undefined && bytes.byteLength > maxBytes) throw new RecordTooLarge(name);
    return bytes;
  }

  async remove(name: string): Promise<void> {
    this.records.delete(requireRecordName(name));
  }

  async *list(folder: string, after = '') {
    const names = [...this.records.keys()].filter(name => name.startsWith(`${folder}/`) && name > after);
    for (const name of names.toSorted(inAsciiOrder)) {
      const size = this.records.get(name)?.byteLength;
      if (size !== undefined) yield { name, size };
    }
  }
}
