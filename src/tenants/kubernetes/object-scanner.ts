/**
 * Finds the objects in a response of the API server while it is read, without parsing those that are not wanted: a list
 * may have hundreds of objects of several megabytes, and one of them must not delay or hide the others.
 */

/** The identity of an object; '' for what was not found. */
export interface ObjectIdentity {
  readonly name: string;
  /** '' for an object without a namespace. */
  readonly namespace: string;
  readonly uid: string;
  readonly resourceVersion: string;
}

/** An object in a response. */
export interface ScannedObject extends ObjectIdentity {
  /** The size of its JSON in bytes. */
  readonly size: number;
  /** Its JSON; `undefined` if it is larger than the scanner keeps. */
  readonly bytes: Buffer | undefined;
}

/** What the scanner has found. */
export type Scanned =
  | { readonly kind: 'object'; readonly object: ScannedObject }
  /** The end of the document, with its own short texts by path: `type`, `metadata.continue`. */
  | { readonly kind: 'end'; readonly texts: ReadonlyMap<string, string> };

/** The response is not JSON of the API server. The message shows nothing of it. */
export class UnscannableText extends Error {
  override readonly name = 'UnscannableText';
}

/** Names have up to 253 bytes, continue tokens some hundred. Longer texts are not needed. */
const MAX_TEXT_BYTES = 8 * 1024;

/** Deeper keys are not needed: `items[].metadata.name` of a list is the deepest. */
const KEYED_DEPTH = 4;

/** Shorter strings are scanned byte by byte, which is faster than starting a search for their end. */
const SHORT_STRING_BYTES = 48;

const ROOT_TEXTS: ReadonlySet<string> = new Set(['type', 'metadata.resourceVersion', 'metadata.continue']);
const OBJECT_TEXTS: ReadonlySet<string> = new Set([
  'metadata.name',
  'metadata.namespace',
  'metadata.uid',
  'metadata.resourceVersion',
]);

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const [OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY, CLOSE_ARRAY, COMMA] = [0x7b, 0x7d, 0x5b, 0x5d, 0x2c];

/** The object that is being read. */
interface Begun {
  /** The number of containers around it. */
  readonly depth: number;
  pieces: Buffer[] | undefined;
  size: number;
  readonly texts: Map<string, string>;
}

/** Scans one document (`items` of a list) or several in a row (`object` of a watch's events). */
export class ObjectScanner {
  readonly #place: 'items' | 'object';
  readonly #maxBytes: number;
  #depth = 0;
  /** For each open container, up to the relevant depth, whether it is an object. */
  readonly #isObject: boolean[] = [];
  /** The last key of each of them. */
  readonly #keys: string[] = [];
  #isKeyNext = false;
  #isInString = false;
  /** Whether the previous piece ended in a string after an odd number of backslashes. */
  #isEscaped = false;
  #string: { readonly path: string; readonly isKey: boolean; pieces: Buffer[]; size: number } | undefined;
  #begun: Begun | undefined;
  #texts = new Map<string, string>();

  /** Keeps the JSON of objects of up to `maxBytes`. */
  constructor(place: 'items' | 'object', maxBytes: number) {
    this.#place = place;
    this.#maxBytes = maxBytes;
  }

  /** Takes the next piece; returns what ended in it, in order. Throws UnscannableText. */
  push(piece: Buffer): readonly Scanned[] {
    const found: Scanned[] = [];
    let at = 0;
    /** Where the current object continues in this piece. */
    let from = 0;
    while (at < piece.length) {
      if (this.#isInString) {
        at = this.#passString(piece, at);
        continue;
      }
      const byte = piece[at];
      at += 1;
      switch (byte) {
        case QUOTE:
          this.#beginString();
          break;
        case OPEN_OBJECT:
        case OPEN_ARRAY: {
          if (this.#depth >= KEYED_DEPTH) {
            this.#depth += 1;
            break;
          }
          if (this.#begun === undefined && byte === OPEN_OBJECT && this.#isObjectPlace()) {
            this.#begun = { depth: this.#depth, pieces: [], size: 0, texts: new Map() };
            from = at - 1;
          }
          this.#open(byte === OPEN_OBJECT);
          break;
        }
        case CLOSE_OBJECT:
        case CLOSE_ARRAY: {
          if (this.#depth > KEYED_DEPTH) {
            this.#depth -= 1;
            break;
          }
          this.#close();
          if (this.#begun?.depth === this.#depth) {
            this.#take(piece.subarray(from, at));
            found.push({ kind: 'object', object: this.#ended() });
          } else if (this.#depth === 0) {
            found.push({ kind: 'end', texts: this.#texts });
            this.#texts = new Map();
          }
          break;
        }
        case COMMA:
          this.#isKeyNext = this.#depth <= KEYED_DEPTH && this.#isObject[this.#depth - 1] === true;
          break;
        default:
          break;
      }
    }
    if (this.#begun !== undefined) this.#take(piece.subarray(from));
    return found;
  }

  #isObjectPlace(): boolean {
    if (this.#place === 'object') return this.#depth === 1 && this.#keys[0] === 'object';
    return this.#depth === 2 && this.#keys[0] === 'items' && this.#isObject[1] === false;
  }

  #open(isObject: boolean): void {
    if (this.#depth === 0 && !isObject) throw new UnscannableText('it is not a JSON object');
    this.#isObject[this.#depth] = isObject;
    this.#keys[this.#depth] = '';
    this.#depth += 1;
    this.#isKeyNext = isObject;
  }

  #close(): void {
    if (this.#depth === 0) throw new UnscannableText('it has an unmatched closing bracket');
    this.#depth -= 1;
    this.#isObject.length = this.#depth;
    this.#isKeyNext = false;
  }

  #take(piece: Buffer): void {
    const begun = this.#begun;
    if (begun === undefined) return;
    begun.size += piece.length;
    if (begun.size > this.#maxBytes) begun.pieces = undefined;
    begun.pieces?.push(piece);
  }

  #ended(): ScannedObject {
    const begun = this.#begun;
    if (begun === undefined) throw new UnscannableText('it ends an object that was not begun');
    this.#begun = undefined;
    const { texts, pieces, size } = begun;
    const text = (key: string) => texts.get(`metadata.${key}`) ?? '';
    return {
      name: text('name'),
      namespace: text('namespace'),
      uid: text('uid'),
      resourceVersion: text('resourceVersion'),
      size,
      // A copy, so that the pieces can be freed.
      bytes: pieces && Buffer.concat(pieces, size),
    };
  }

  #beginString(): void {
    if (this.#depth === 0) throw new UnscannableText('it is not a JSON object');
    const isKey = this.#isKeyNext;
    this.#isKeyNext = false;
    this.#isInString = true;
    this.#isEscaped = false;
    if (this.#depth > KEYED_DEPTH || !this.#isNearTop()) return;
    const path = isKey ? '' : this.#pathOfText();
    this.#string = isKey || path !== '' ? { path, isKey, pieces: [], size: 0 } : undefined;
  }

  /**
   * Whether the current key is one of the document, the object itself, or its `metadata`: these are few, while `data`
   * may have any number.
   */
  #isNearTop(): boolean {
    const base = this.#begun?.depth ?? 0;
    return this.#depth === base + 1 || (this.#depth === base + 2 && this.#keys[base] === 'metadata');
  }

  /** The path of the text that begins here, if it is needed; otherwise ''. */
  #pathOfText(): string {
    if (this.#isObject[this.#depth - 1] !== true) return '';
    const path = this.#keys.slice(this.#begun?.depth ?? 0, this.#depth).join('.');
    return (this.#begun === undefined ? ROOT_TEXTS : OBJECT_TEXTS).has(path) ? path : '';
  }

  /** The position after the string, or the end of the piece. */
  #passString(piece: Buffer, start: number): number {
    let isEscaped = this.#isEscaped;
    let at = start;
    let searchFrom = start + SHORT_STRING_BYTES;
    while (at < piece.length) {
      const byte = piece[at];
      at += 1;
      if (isEscaped) isEscaped = false;
      else if (byte === BACKSLASH) isEscaped = true;
      else if (byte === QUOTE) {
        this.#isInString = false;
        if (this.#string !== undefined) this.#endString(piece.subarray(start, at - 1));
        return at;
      }
      if (at < searchFrom || isEscaped) continue;
      const quote = piece.indexOf(QUOTE, at);
      const next = quote === -1 ? piece.length : quote;
      if (next - at > SHORT_STRING_BYTES) {
        // Counts the backslashes before the quote, which decide whether it ends the string.
        let last = next;
        while (last > at && piece[last - 1] === BACKSLASH) last -= 1;
        at = last;
      }
      searchFrom = next + SHORT_STRING_BYTES;
    }
    if (this.#string !== undefined) this.#keepString(piece.subarray(start));
    this.#isEscaped = isEscaped;
    return piece.length;
  }

  #keepString(piece: Buffer): void {
    const string = this.#string;
    if (string === undefined) return;
    string.size += piece.length;
    if (string.size > MAX_TEXT_BYTES) string.pieces = [];
    else string.pieces.push(piece);
  }

  #endString(last: Buffer): void {
    this.#keepString(last);
    const string = this.#string;
    this.#string = undefined;
    if (string === undefined) return;
    const text = string.size > MAX_TEXT_BYTES ? '' : unquote(Buffer.concat(string.pieces, string.size));
    if (string.isKey) this.#keys[this.#depth - 1] = text;
    else (this.#begun?.texts ?? this.#texts).set(string.path, text);
  }
}

function unquote(bytes: Buffer): string {
  try {
    return String(JSON.parse(`"${bytes.toString()}"`));
  } catch (cause) {
    throw new UnscannableText('it contains an invalid string', { cause });
  }
}
