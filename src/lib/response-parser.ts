import type { HttpHeaders } from './http-message.ts';

/** A response's status and headers, and what they say about its connection. */
export interface ResponseHead {
  readonly status: number;
  readonly headers: HttpHeaders;
  /** Content-Length; `undefined` if the body has another framing. */
  readonly length: number | undefined;
  /** Whether the connection can be used for another request after the body. */
  readonly isPersistent: boolean;
}

/** Takes the parts of a response as they are parsed. */
export interface ResponseSink {
  head(head: ResponseHead): void;
  /** The next bytes of the body: a view that is only valid during the call. */
  bytes(bytes: Uint8Array): void;
  /** The response is complete. */
  end(): void;
}

/** Why bytes are not a response to a GET. */
export class ResponseError extends Error {}

/** A chunk's size with its extensions, which nobody uses. */
const MAX_CHUNK_LINE_BYTES = 1024;
/** Up to 2^48 - 1, which is exact in a number. */
const CHUNK_SIZE = /^([0-9a-f]{1,12})[ \t]*(?:;.*)?$/i;
const STATUS_LINE = /^HTTP\/1\.([01]) ([1-5]\d\d)(?: .*)?$/;
const HEADER = /^([!#$%&'*+.^_`|~\w-]+):(.*)$/;
/** Never part of a line: its end is CRLF, and neither may stand alone (RFC 9112, 2.2; RFC 9110, 5.5). */
// oxlint-disable-next-line no-control-regex -- they are what it is for
const STRAY = /[\0-\x08\x0a-\x1f\x7f]/;
const CR = 0x0d;
const LF = 0x0a;

type State = 'head' | 'counted' | 'unbounded' | 'size' | 'chunk' | 'chunk end' | 'trailers' | 'done';

/**
 * Parses one response to a GET (RFC 9112) from pieces of any length, without copying its body. Whatever is ambiguous
 * about where a body ends is refused, so that no byte of one response is ever taken for another's.
 */
export class ResponseParser {
  readonly #sink: ResponseSink;
  readonly #maxHeaderBytes: number;
  #state: State = 'head';
  /** The beginning of a line whose end is still to come. */
  #begun = '';
  /** Bytes of the present section of lines. */
  #sectionBytes = 0;
  #lines: string[] = [];
  /** Bytes still to come of the body, or of its present chunk. */
  #left = 0;

  /** `maxHeaderBytes`: of the head with all interim responses before it, and of the trailers. */
  constructor(maxHeaderBytes: number, sink: ResponseSink) {
    this.#maxHeaderBytes = maxHeaderBytes;
    this.#sink = sink;
  }

  /** Whether nothing of a response has come. */
  get isUntouched(): boolean {
    return this.#state === 'head' && this.#sectionBytes === 0;
  }

  /** Takes the next bytes; throws a ResponseError if they cannot be what follows. */
  feed(bytes: Buffer): void {
    let at = 0;
    while (at < bytes.length) {
      switch (this.#state) {
        case 'counted':
        case 'chunk':
          at = this.#take(bytes, at, this.#left);
          break;
        case 'unbounded':
          at = this.#take(bytes, at, Number.POSITIVE_INFINITY);
          break;
        case 'done':
          throw new ResponseError('more bytes than the response has');
        default:
          at = this.#takeLine(bytes, at);
      }
    }
  }

  /** The connection has ended; throws a ResponseError if that leaves the response incomplete. */
  finish(): void {
    if (this.#state === 'unbounded') this.#end();
    else if (this.#state !== 'done') throw new ResponseError('the response ended early');
  }

  #take(bytes: Buffer, at: number, left: number): number {
    const end = Math.min(bytes.length, at + left);
    this.#left = left - (end - at);
    this.#sink.bytes(bytes.subarray(at, end));
    if (this.#left === 0) {
      if (this.#state === 'chunk') this.#state = 'chunk end';
      else this.#end();
    }
    return end;
  }

  #takeLine(bytes: Buffer, at: number): number {
    const newline = bytes.indexOf(LF, at);
    const end = newline < 0 ? bytes.length : newline + 1;
    this.#sectionBytes += end - at;
    const isInChunks = this.#state === 'size' || this.#state === 'chunk end';
    if (this.#sectionBytes > (isInChunks ? MAX_CHUNK_LINE_BYTES : this.#maxHeaderBytes))
      throw new ResponseError(isInChunks ? 'a chunk has too long a line' : 'its headers are too long');
    this.#begun += bytes.toString('latin1', at, end);
    if (this.#state === 'chunk end' && !'\r\n'.startsWith(this.#begun))
      throw new ResponseError('a chunk is longer than its size');
    if (newline >= 0) {
      const line = this.#begun;
      this.#begun = '';
      if (line.charCodeAt(line.length - 2) !== CR || STRAY.test(line.slice(0, -2)))
        throw new ResponseError('a line has a stray control character');
      this.#line(line.slice(0, -2));
    }
    return end;
  }

  #line(line: string): void {
    if (this.#state === 'size') this.#chunk(line);
    else if (this.#state === 'chunk end') this.#enter('size');
    else if (line !== '') this.#lines.push(line);
    else if (this.#state === 'trailers') this.#end();
    else this.#head();
  }

  #chunk(line: string): void {
    const size = CHUNK_SIZE.exec(line)?.[1];
    if (size === undefined) throw new ResponseError('a chunk has no valid size');
    this.#left = Number.parseInt(size, 16);
    this.#enter(this.#left === 0 ? 'trailers' : 'chunk');
  }

  #enter(state: State): void {
    this.#state = state;
    this.#sectionBytes = 0;
    this.#lines = [];
  }

  #end(): void {
    this.#enter('done');
    this.#sink.end();
  }

  #head(): void {
    const [first = '', ...lines] = this.#lines;
    const match = STATUS_LINE.exec(first);
    if (match === null) throw new ResponseError('its status line is invalid');
    const [, minor, code] = match;
    const status = Number(code);
    const headers = headersOf(lines);
    if (status === 101) throw new ResponseError('it switches protocols');
    if (status < 200) {
      // More may follow before the actual response: their bytes count on.
      this.#lines = [];
      return;
    }
    const { state, length } = bodyOf(status, headers, minor === '0');
    const isPersistent = minor === '1' && state !== 'unbounded' && !says(headers['connection'], 'close');
    this.#enter(state);
    this.#left = length ?? 0;
    this.#sink.head({ status, headers, length, isPersistent });
    if (length === 0) this.#end();
  }
}

/** How the body ends (RFC 9112, 6.3). */
function bodyOf(
  status: number,
  headers: HttpHeaders,
  isOld: boolean,
): { readonly state: State; readonly length: number | undefined } {
  if (status === 204 || status === 304) return { state: 'counted', length: 0 };
  const coding = headers['transfer-encoding'];
  const length = headers['content-length'];
  if (coding !== undefined) {
    // Together they are an attack, or a broken proxy; HTTP/1.0 has no codings.
    if (length !== undefined || isOld) throw new ResponseError('its length is ambiguous');
    if (typeof coding !== 'string' || coding.toLowerCase() !== 'chunked')
      throw new ResponseError('its coding is unknown');
    return { state: 'size', length: undefined };
  }
  if (length === undefined) return { state: 'unbounded', length: undefined };
  if (typeof length !== 'string' || !/^\d{1,15}$/.test(length))
    throw new ResponseError('its Content-Length is invalid');
  return { state: 'counted', length: Number(length) };
}

function headersOf(lines: readonly string[]): HttpHeaders {
  const headers: Record<string, string | string[]> = Object.create(null);
  for (const line of unfolded(lines)) {
    const match = HEADER.exec(line);
    if (match === null) throw new ResponseError('a header is invalid');
    const [, text = '', rest = ''] = match;
    const [name, value] = [text.toLowerCase(), withoutBlanks(rest)];
    const known = headers[name];
    if (Array.isArray(known)) known.push(value);
    else headers[name] = known === undefined ? value : [known, value];
  }
  return headers;
}

/** A line that begins with a blank continues the one before it (RFC 9112, 5.2). */
function unfolded(lines: readonly string[]): readonly string[] {
  const whole: string[][] = [];
  for (const line of lines) {
    const isFolded = line.startsWith(' ') || line.startsWith('\t');
    if (!isFolded) whole.push([line]);
    else if (whole.at(-1)?.push(withoutBlanks(line)) === undefined)
      throw new ResponseError('a header is invalid');
  }
  return whole.map(parts => parts.join(' '));
}

/** Without the blanks around it, which are no other than space and tab (RFC 9110, 5.6.3). */
function withoutBlanks(text: string): string {
  const isBlank = (at: number): boolean => text[at] === ' ' || text[at] === '\t';
  let [start, end] = [0, text.length];
  while (isBlank(start)) start += 1;
  while (end > start && isBlank(end - 1)) end -= 1;
  return text.slice(start, end);
}

function says(header: string | readonly string[] | undefined, word: string): boolean {
  return [header ?? []].flat().some(value =>
    value
      .toLowerCase()
      .split(',')
      .some(item => item.trim() === word),
  );
}
