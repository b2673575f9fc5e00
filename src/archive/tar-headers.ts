import { ArchiveError } from './archive-error.ts';

const BLOCK_BYTES = 512;
/** The maximum size of a PAX header or long name, as in Go's reader. Names here have at most 141 characters. */
const MAX_EXTENSION_BYTES = 1024 * 1024;
/** How many of them may precede an entry: one or two are usual, but a hostile tar could consist of nothing else. */
const MAX_EXTENSIONS = 10;
/**
 * The maximum size of the zeros at the end: two blocks, and padding to a record, which has 10 KiB, or some MiB with
 * `--blocking-factor`. A device can supply endless zeros.
 */
const MAX_END_BYTES = 16 * 1024 * 1024;

/** Offset and length of the header fields that are read (POSIX ustar). */
const NAME = [0, 100] as const;
const SIZE = [124, 12] as const;
const CHECKSUM = [148, 8] as const;
const TYPE_AT = 156;
const MAGIC = [257, 6] as const;
const PREFIX = [345, 155] as const;

/** Keys that a global PAX header must not have: they would change all entries that follow. */
const OWN_KEYS: readonly string[] = ['path', 'linkpath', 'size'];

/**
 * Passes the bytes of a tar through, each chunk once every header that ends in it was checked. Throws ArchiveError for
 * anything that tar readers interpret differently or ignore: a name that continues after its end, sparse files, names
 * and sizes for all entries, sizes that are negative, contradict each other, or belong to an entry without a body, and
 * whatever follows the end. The content of such an archive would depend on who reads it.
 */
export async function* checkedHeaders(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void> {
  const check = new HeaderCheck();
  for await (const chunk of source) {
    check.take(chunk);
    yield chunk;
  }
}

/** For a file without a single readable header. */
export function notTar(why: string): ArchiveError {
  return new ArchiveError(`it is not a tar archive, or is damaged at its start: ${why}`);
}

/** What extended headers have said about the next entry. */
interface Announced {
  readonly pax?: ReadonlyMap<string, string>;
  readonly hasLongName?: boolean;
}

class HeaderCheck {
  readonly #header = Buffer.alloc(BLOCK_BYTES);
  #headerLength = 0;
  /** How many bytes of the current body, with its padding, are still to come. */
  #bodyLeft = 0;
  /** The body of an extended header, while it is received. */
  #extension: { readonly type: string; readonly body: Buffer; length: number } | undefined;
  #announced: Announced = {};
  #extensionCount = 0;
  #isFirst = true;
  #endBytes = 0;

  take(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.byteLength)
      at += this.#bodyLeft > 0 ? this.#passBody(chunk, at) : this.#addHeader(chunk, at);
  }

  #passBody(chunk: Uint8Array, at: number): number {
    const length = Math.min(this.#bodyLeft, chunk.byteLength - at);
    const extension = this.#extension;
    if (extension !== undefined) {
      const wanted = Math.min(length, extension.body.byteLength - extension.length);
      extension.body.set(chunk.subarray(at, at + wanted), extension.length);
      extension.length += wanted;
    }
    this.#bodyLeft -= length;
    if (this.#bodyLeft === 0 && extension !== undefined) {
      this.#extension = undefined;
      this.#announce(extension.type, extension.body);
    }
    return length;
  }

  #addHeader(chunk: Uint8Array, at: number): number {
    const length = Math.min(BLOCK_BYTES - this.#headerLength, chunk.byteLength - at);
    this.#header.set(chunk.subarray(at, at + length), this.#headerLength);
    this.#headerLength += length;
    if (this.#headerLength === BLOCK_BYTES) {
      this.#headerLength = 0;
      this.#checkHeader();
    }
    return length;
  }

  #checkHeader(): void {
    const header = this.#header;
    if (header.every(byte => byte === 0)) return this.#passEnd();
    if (this.#endBytes > 0) throw this.#brokenAt('it has data after its end');
    const sum = checksumOf(header);
    // Some readers consider a block with nothing but its checksum empty.
    if (sum === EMPTY_SUM || sum !== numberIn(header, CHECKSUM))
      throw this.#brokenAt('a header has a wrong checksum');
    this.#isFirst = false;
    const type = String.fromCharCode(header[TYPE_AT] || 0x30);
    const shown = requireText(header, NAME);
    if (textIn(header, MAGIC) === 'ustar' && header[MAGIC[0] + MAGIC[1] - 1] === 0)
      requireText(header, PREFIX);
    const size = sizeOf(header, shown);
    if ('xgLK'.includes(type)) this.#beginExtension(type, size, shown);
    else this.#beginEntry(type, size, shown);
  }

  #passEnd(): void {
    this.#endBytes += BLOCK_BYTES;
    if (this.#endBytes > MAX_END_BYTES)
      throw this.#brokenAt(`it has more than ${MAX_END_BYTES} bytes of zeros in a row`);
  }

  /** The error for a fault in a place where a header could be. */
  #brokenAt(why: string): ArchiveError {
    return this.#isFirst ? notTar(why) : broken(why);
  }

  #beginExtension(type: string, size: number, shown: string): void {
    this.#extensionCount += 1;
    if (this.#extensionCount > MAX_EXTENSIONS)
      throw broken(`an entry has more than ${MAX_EXTENSIONS} extended headers`);
    if (size === 0) throw broken(`the extended header ${quote(shown)} is empty`);
    if (size > MAX_EXTENSION_BYTES)
      throw broken(`the header ${quote(shown)} has more than ${MAX_EXTENSION_BYTES} bytes`);
    this.#extension = { type, body: Buffer.alloc(size), length: 0 };
    this.#bodyLeft = padded(size);
  }

  #beginEntry(type: string, headerSize: number, shown: string): void {
    const size = this.#sizeAnnounced(headerSize, shown);
    this.#announced = {};
    this.#extensionCount = 0;
    if (type === 'S') throw broken(`${quote(shown)} is a sparse file`);
    if (!'01234567'.includes(type)) throw broken(`${quote(shown)} has the unknown type ${quote(type)}`);
    const isFile = type === '0' || type === '7';
    if (!isFile && size > 0) throw broken(`${quote(shown)} is not a file, but has ${size} bytes`);
    this.#bodyLeft = padded(size);
  }

  /**
   * The size of an entry: that of PAX if present, in which case the header must have the same, none, or its maximum.
   */
  #sizeAnnounced(headerSize: number, shown: string): number {
    const text = this.#announced.pax?.get('size');
    if (text === undefined) return headerSize;
    const size = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
    if (!Number.isSafeInteger(size)) throw broken(`${quote(shown)} has an invalid size`);
    if (![size, 0, MAX_OCTAL_SIZE].includes(headerSize)) throw broken(`${quote(shown)} has two sizes`);
    return size;
  }

  #announce(type: string, body: Buffer): void {
    if (type === 'L' || type === 'K') {
      if (type === 'L' && this.#announced.hasLongName === true) throw broken('an entry has two long names');
      requireText(body, [0, body.byteLength]);
      if (type === 'L') this.#announced = { ...this.#announced, hasLongName: true };
      return;
    }
    const records = paxRecords(body);
    for (const key of records.keys()) {
      if (key.startsWith('GNU.sparse.')) throw broken('it contains a sparse file');
      if (type === 'g' && OWN_KEYS.includes(key)) throw broken(`it sets one ${key} for all entries`);
    }
    if (type === 'g') return;
    if (this.#announced.pax !== undefined) throw broken('an entry has two extended headers');
    this.#announced = { ...this.#announced, pax: records };
  }
}

/** Parses records of the form `LENGTH KEY=VALUE` (POSIX pax), each of which ends with a newline. */
function paxRecords(body: Buffer): ReadonlyMap<string, string> {
  const records = new Map<string, string>();
  for (let at = 0; at < body.byteLength; ) {
    const [, digits] = /^([1-9]\d{0,6}) /.exec(body.toString('latin1', at, at + 8)) ?? [];
    const end = at + Number(digits);
    const record = body.toString('utf8', at + (digits?.length ?? 0) + 1, end - 1);
    const equals = record.indexOf('=');
    if (!(end <= body.byteLength) || body[end - 1] !== 0x0a || equals < 1) {
      throw broken('an extended header cannot be read');
    }
    const [key, value] = [record.slice(0, equals), record.slice(equals + 1)];
    if (value.includes('\0')) throw broken(`an entry has a ${key} that contains a NUL`);
    records.set(key, value);
    at = end;
  }
  return records;
}

type Field = readonly [offset: number, length: number];

/** The sum of all bytes of a header, with spaces in place of the checksum. */
function checksumOf(header: Buffer): number {
  const [offset, length] = CHECKSUM;
  return header.reduce((sum, byte, at) => sum + (at >= offset && at < offset + length ? 0x20 : byte), 0);
}

const EMPTY_SUM = CHECKSUM[1] * 0x20;
const MAX_OCTAL_SIZE = 8 ** 11 - 1;

function sizeOf(header: Buffer, shown: string): number {
  const size = numberIn(header, SIZE);
  if (size === undefined) throw broken(`${quote(shown)} has an invalid size`);
  return size;
}

/**
 * A number in octal digits, or base 256 from the second byte on if the first says so; `undefined` for anything else.
 */
function numberIn(header: Buffer, [offset, length]: Field): number | undefined {
  const field = header.subarray(offset, offset + length);
  if (field[0] === 0x80) {
    const number = Number(BigInt(`0x${field.subarray(1).toString('hex')}`));
    return Number.isSafeInteger(number) ? number : undefined;
  }
  const digits = /^ *([0-7]*)[ \0]*$/.exec(field.toString('latin1'))?.[1];
  return digits === undefined ? undefined : Number.parseInt(digits || '0', 8);
}

/** Requires that nothing follows the NUL at the end of a text. */
function requireText(bytes: Buffer, field: Field): string {
  const text = textIn(bytes, field);
  const [offset, length] = field;
  const rest = bytes.subarray(offset + Buffer.byteLength(text, 'latin1'), offset + length);
  if (rest.some(byte => byte !== 0)) throw broken(`the name ${quote(text)} continues after a NUL`);
  return text;
}

function textIn(bytes: Buffer, [offset, length]: Field): string {
  const text = bytes.toString('latin1', offset, offset + length);
  const end = text.indexOf('\0');
  return end < 0 ? text : text.slice(0, end);
}

function padded(size: number): number {
  return Math.ceil(size / BLOCK_BYTES) * BLOCK_BYTES;
}

function broken(why: string): ArchiveError {
  return new ArchiveError(`the tar is damaged or malformed: ${why}`);
}

function quote(name: string): string {
  return JSON.stringify(name.slice(0, 200));
}
