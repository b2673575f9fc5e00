import { type RecordStore, requireRecordName, RecordTooLarge } from './record-store.ts';

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

  async *list(folder: string) {
    for (const [name, { byteLength: size }] of this.records) {
      if (name.startsWith(`${folder}/`)) yield { name, size };
    }
  }
}
