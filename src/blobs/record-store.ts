/** A record, as a list returns it. */
export interface FoundRecord {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
}

/**
 * Small documents beside the blobs, which are replaced and removed as a whole, by names such as `images/team@app/sha256-12`:
 * parts of lower-case letters, digits and `._@-`, separated by slashes. Rejects with UNAVAILABLE while they cannot be reached.
 */
export interface RecordStore {
  /** Adds or replaces a record, which is durable when it resolves. Whoever reads it gets all of the old one, or of the new. */
  put(name: string, bytes: Uint8Array): Promise<void>;
  /** `undefined` if there is none. Rejects with RecordTooLarge if it has more than `maxBytes`. */
  read(name: string, maxBytes: number): Promise<Uint8Array | undefined>;
  /** Removes a record, durably; one that is gone is not an error. */
  remove(name: string): Promise<void>;
  /**
   * The records whose names begin with the part `folder` and come after the name `after`, in ASCII order. What is put or
   * removed meanwhile may be listed or not.
   */
  list(folder: string, after?: string): AsyncIterable<FoundRecord>;
}

const NAME = /^[a-z0-9][a-z0-9._@-]*(\/[a-z0-9][a-z0-9._@-]*)+$/;

/** Returns the name; throws for what could be a path to something else. */
export function requireRecordName(name: string): string {
  if (!NAME.test(name)) throw new TypeError(`not the name of a record: ${name}`);
  return name;
}

/** A record has more bytes than its reader takes. */
export class RecordTooLarge extends Error {
  override readonly name = 'RecordTooLarge';

  constructor(name: string) {
    super(`the record ${name} is too large`);
  }
}
