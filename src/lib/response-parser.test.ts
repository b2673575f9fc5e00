import { describe, expect, it } from 'vitest';
import { ResponseError, type ResponseHead, ResponseParser } from './response-parser.ts';

const MAX_HEADER_BYTES = 2048;

interface Parsed {
  readonly head: ResponseHead | undefined;
  readonly body: string;
  /** Whether the response was complete, before the connection ended or through it. */
  readonly isComplete: boolean;
  readonly error: string | undefined;
}

/** Feeds `text` in pieces of `step` bytes, then ends the connection. */
function parse(text: string, step: number): Parsed {
  const bytes = Buffer.from(text, 'latin1');
  let head: ResponseHead | undefined;
  let body = '';
  let isComplete = false;
  const parser = new ResponseParser(MAX_HEADER_BYTES, {
    head: given => {
      head = given;
    },
    bytes: piece => {
      body += Buffer.from(piece).toString('latin1');
    },
    end: () => {
      isComplete = true;
    },
  });
  const parsed = (error?: string): Parsed => ({ head, body, isComplete, error });
  try {
    for (let at = 0; at < bytes.length; at += step) parser.feed(bytes.subarray(at, at + step));
    parser.finish();
    return parsed();
  } catch (error) {
    if (!(error instanceof ResponseError)) throw error;
    return parsed(error.message);
  }
}

const STEPS = [1, 2, 3, 5, 7, 64, 100_000];
const OK = 'HTTP/1.1 200 OK\r\n';
const CHUNKED = `${OK}Transfer-Encoding: chunked\r\n\r\n`;

describe.each(STEPS)('a response that comes %i bytes at a time', step => {
  it.each([
    ['with a length', `${OK}Content-Length: 5\r\n\r\nhello`, 'hello'],
    ['of no bytes', `${OK}content-length:0\r\n\r\n`, ''],
    ['without a reason', 'HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok', 'ok'],
    ['until the connection ends', `${OK}\r\nhello`, 'hello'],
    ['of an old server', 'HTTP/1.0 200 OK\r\n\r\nhello', 'hello'],
    ['without content', 'HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n', ''],
    ['in chunks', `${CHUNKED}3\r\nhel\r\n02\r\nlo\r\n0\r\n\r\n`, 'hello'],
    ['in chunks with upper-case hexadecimal', `${CHUNKED}A\r\n0123456789\r\n0\r\n\r\n`, '0123456789'],
    ['in chunks with extensions', `${CHUNKED}5;a=b;c="d"\r\nhello\r\n0 ;e\r\n\r\n`, 'hello'],
    ['in chunks with trailers', `${CHUNKED}5\r\nhello\r\n0\r\nX: 1\r\nContent-Length: 9\r\n\r\n`, 'hello'],
    ['after interim responses', `HTTP/1.1 100\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n${OK}\r\nhi`, 'hi'],
    ['with a folded header', `${OK}Content-Length:\r\n 5\r\n\r\nhello`, 'hello'],
  ])('%s is parsed', (_, text, body) => {
    expect(parse(text, step)).toMatchObject({ body, isComplete: true, error: undefined });
  });

  it.each([
    ['that is not HTTP', 'SSH-2.0-OpenSSH\r\n\r\n'],
    ['of another version', 'HTTP/2 200 OK\r\n\r\n'],
    ['with an invalid status', 'HTTP/1.1 99 No\r\n\r\n'],
    ['that switches protocols', 'HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n'],
    ['that begins with an empty line', `\r\n${OK}\r\n`],
    ['with line feeds alone', 'HTTP/1.1 200 OK\nContent-Length: 5\n\nhello'],
    ['with a stray carriage return', `${OK}X: a\rb\r\nContent-Length: 5\r\n\r\nhello`],
    ['with a null in a header', `${OK}X: a\0b\r\nContent-Length: 5\r\n\r\nhello`],
    ['with a control character in a header', `${OK}X: a\x01b\r\nContent-Length: 5\r\n\r\nhello`],
    ['with a vertical tab behind a length', `${OK}Content-Length: 5\v\r\n\r\nhello`],
    ['with a no-break space before a length', `${OK}Content-Length: \xa05\r\n\r\nhello`],
    ['with a no-break space behind a coding', `${OK}Transfer-Encoding: chunked\xa0\r\n\r\n0\r\n\r\n`],
    ['with a header without a colon', `${OK}Content-Length 5\r\n\r\nhello`],
    ['with a blank before a colon', `${OK}Content-Length : 5\r\n\r\nhello`],
    ['whose first header is folded', `${OK} Content-Length: 5\r\n\r\nhello`],
    ['with a folded length', `${OK}Content-Length: 1\r\n 5\r\n\r\nhello`],
    ['with two lengths', `${OK}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello`],
    ['with the same length twice', `${OK}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello`],
    ['with a negative length', `${OK}Content-Length: -5\r\n\r\nhello`],
    ['with a signed length', `${OK}Content-Length: +5\r\n\r\nhello`],
    ['with a hexadecimal length', `${OK}Content-Length: 0x5\r\n\r\nhello`],
    ['with a length beyond exact numbers', `${OK}Content-Length: 9999999999999999\r\n\r\nhello`],
    ['with a length and chunks', `${OK}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`],
    ['with chunks of an old server', 'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['with an unknown coding', `${OK}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`],
    ['with two codings', `${OK}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n`],
    ['with too many header bytes', `${OK}X: ${'x'.repeat(MAX_HEADER_BYTES)}\r\n\r\n`],
    ['with too many headers', `${OK}${'X: y\r\n'.repeat(MAX_HEADER_BYTES / 6)}\r\n`],
    ['with endless interim responses', 'HTTP/1.1 100 Continue\r\n\r\n'.repeat(MAX_HEADER_BYTES / 25 + 1)],
  ])('%s is refused before its body', (_, text) => {
    const { head, body, isComplete, error } = parse(text, step);
    expect([head, body, isComplete]).toEqual([undefined, '', false]);
    expect(error).toBeDefined();
  });

  it.each([
    ['that is shorter than its length', `${OK}Content-Length: 6\r\n\r\nhello`],
    ['without its last chunk', `${CHUNKED}5\r\nhello\r\n`],
    ['that ends within a chunk', `${CHUNKED}6\r\nhello`],
    ['that ends within a size', `${CHUNKED}5\r\nhello\r\n0`],
    ['that ends within its trailers', `${CHUNKED}5\r\nhello\r\n0\r\nX: 1\r\n`],
    ['with a chunk that is longer than its size', `${CHUNKED}5\r\nhello!\r\n0\r\n\r\n`],
    ['with a chunk that is shorter than its size', `${CHUNKED}5\r\nhello\r\n5\r\n0\r\n\r\n`],
    ['with an empty size', `${CHUNKED}5\r\nhello\r\n\r\n0\r\n\r\n`],
    ['with a signed size', `${CHUNKED}5\r\nhello\r\n+0\r\n\r\n`],
    ['with a size in 0x notation', `${CHUNKED}5\r\nhello\r\n0x0\r\n\r\n`],
    ['with a size beyond exact numbers', `${CHUNKED}5\r\nhello\r\n10000000000000\r\n`],
    ['with a form feed behind a size', `${CHUNKED}5\r\nhello\r\n0\f\r\n\r\n`],
    ['with a control character in an extension', `${CHUNKED}5\r\nhello\r\n0;a=\x7f\r\n\r\n`],
    ['with a line feed behind a size', `${CHUNKED}5\r\nhello\r\n0\n\r\n`],
    ['with an endless extension', `${CHUNKED}5\r\nhello\r\n1;${'x'.repeat(2_000)}\r\n`],
    ['with endless trailers', `${CHUNKED}5\r\nhello\r\n0\r\n${'X: y\r\n'.repeat(1_000)}\r\n`],
  ])('%s is never complete', (_, text) => {
    const { body, isComplete, error } = parse(text, step);
    expect('hello'.startsWith(body.slice(0, 5))).toBe(true);
    expect([isComplete, error === undefined]).toEqual([false, false]);
  });

  it('that something follows has its own bytes only, and says so', () => {
    const { body, isComplete, error } = parse(`${OK}Content-Length: 5\r\n\r\nhello${OK}\r\n`, step);
    expect([body, isComplete]).toEqual(['hello', true]);
    expect(error).toBeDefined();
  });
});

const headOf = (text: string) => parse(text, 100_000).head;
const isPersistent = (text: string) => headOf(text)?.isPersistent;

describe('the head of a response', () => {
  it('has its headers by lower-case name, and all values of a repeated one', () => {
    const head = headOf(
      `${OK}ETag:  "x" \r\nWWW-Authenticate: a\r\nwww-authenticate: b\r\n__proto__: c\r\n\r\n`,
    );
    expect(Object.entries(head?.headers ?? {})).toEqual([
      ['etag', '"x"'],
      ['www-authenticate', ['a', 'b']],
      ['__proto__', 'c'],
    ]);
  });

  it('says whether the connection may be used again', () => {
    expect(isPersistent(`${OK}Content-Length: 0\r\n\r\n`)).toBe(true);
    expect(isPersistent(`${OK}Content-Length: 0\r\nConnection: Foo, Close\r\n\r\n`)).toBe(false);
    expect(isPersistent('HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n')).toBe(false);
    expect(isPersistent(`${OK}\r\n`)).toBe(false);
  });
});
