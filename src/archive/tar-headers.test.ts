import { buffer } from 'node:stream/consumers';
import { pack } from 'tar-stream';
import { describe, expect, it } from 'vitest';
import { ArchiveError } from './archive-error.ts';
import { checkedHeaders } from './tar-headers.ts';

interface Entry {
  readonly name?: string;
  readonly type?: string;
  readonly body?: string | Buffer;
  /** In place of what the body says. */
  readonly size?: string | Buffer;
  readonly magic?: string;
  readonly prefix?: string;
}

/** A header and its body, as no library would write some of them. */
function entry({ name = 'a', type = '0', body = '', size, magic = 'ustar\0', prefix = '' }: Entry): Buffer {
  const bytes = Buffer.from(body);
  const header = Buffer.alloc(512);
  header.write(name, 0, 'latin1');
  header.write('0000644\0', 100);
  if (Buffer.isBuffer(size)) size.copy(header, 124);
  else header.write(size ?? `${bytes.length.toString(8).padStart(11, '0')}\0`, 124, 'latin1');
  header.write(type, 156);
  header.write(magic, 257, 'latin1');
  header.write(prefix, 345, 'latin1');
  header.fill(' ', 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return Buffer.concat([header, bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)]);
}

/** An extended header with these records. */
function pax(records: Readonly<Record<string, string>>, type = 'x'): Buffer {
  const lines = Object.entries(records).map(([key, value]) => {
    const rest = ` ${key}=${value}\n`;
    const length = [1, 2, 3, 4]
      .map(digits => rest.length + digits)
      .find(all => String(all).length === all - rest.length);
    return `${length}${rest}`;
  });
  return entry({ name: 'pax', type, body: lines.join('') });
}

async function check(tar: Buffer, pieceBytes = tar.length): Promise<Buffer> {
  const pieces = async function* () {
    for (let at = 0; at < tar.length; at += pieceBytes) yield tar.subarray(at, at + pieceBytes);
  };
  return buffer(checkedHeaders(pieces()));
}

const END = Buffer.alloc(1024);
const FILE = entry({ name: 'file', body: 'text' });

describe('the headers of a tar', () => {
  it.each([
    ['a name that goes on behind a NUL', entry({ name: 'a\0b' }), /after a NUL/],
    ['a prefix that does', entry({ prefix: 'a\0b' }), /after a NUL/],
    ['a long name that does', Buffer.concat([entry({ type: 'L', body: 'a\0b\0' }), FILE]), /after a NUL/],
    ['a PAX path with one', Buffer.concat([pax({ path: 'a\0b' }), FILE]), /that contains a NUL/],
    ['a sparse file', entry({ type: 'S', body: 'x' }), /sparse/],
    ['a sparse file of PAX', Buffer.concat([pax({ 'GNU.sparse.major': '1' }), FILE]), /sparse/],
    ['a path for all entries', Buffer.concat([pax({ path: 'b' }, 'g'), FILE]), /one path for all/],
    ['a size for all entries', Buffer.concat([pax({ size: '4' }, 'g'), FILE]), /one size for all/],
    ['a negative size', entry({ size: Buffer.alloc(12, 0xff) }), /invalid size/],
    ['a negative size of a PAX header', entry({ type: 'x', size: Buffer.alloc(12, 0xff) }), /invalid size/],
    ['a negative size by PAX', Buffer.concat([pax({ size: '-4' }), FILE]), /invalid size/],
    ['a size that is no number', entry({ size: '12x\0' }), /invalid size/],
    [
      'a size beyond all numbers',
      entry({ size: Buffer.from('80ffffffffffffffffffffff', 'hex') }),
      /invalid size/,
    ],
    ['two sizes', Buffer.concat([pax({ size: '9' }), FILE]), /two sizes/],
    ['a folder with bytes', entry({ type: '5', body: 'x' }), /not a file, but has 1/],
    ['a link with bytes', entry({ type: '2', body: 'x' }), /not a file, but has 1/],
    ['an unknown type', entry({ type: 'V' }), /unknown type/],
    ['two extended headers', Buffer.concat([pax({ path: 'a' }), pax({ path: 'b' }), FILE]), /two extended/],
    [
      'two long names',
      Buffer.concat([entry({ type: 'L', body: 'a\0' }), entry({ type: 'L', body: 'b\0' }), FILE]),
      /two long/,
    ],
    ['an extended header with nothing', Buffer.concat([entry({ type: 'x' }), FILE]), /is empty/],
    [
      'an extended header that is cut',
      Buffer.concat([entry({ type: 'x', body: '99 path=a\n' }), FILE]),
      /cannot be read/,
    ],
    ['one that is far too long', entry({ type: 'x', body: Buffer.alloc(1024 * 1024 + 1, 'a') }), /more than/],
    ['a wrong checksum', Buffer.from(FILE).fill('b', 0, 1), /checksum/],
    [
      'nothing but a checksum',
      entry({ name: '', type: '\0', size: '\0', magic: '\0' }).fill(0, 100, 108),
      /checksum/,
    ],
    ['an entry after the end', Buffer.concat([FILE, END, FILE]), /has data after its end/],
    [
      'nothing but global headers',
      Buffer.concat(Array.from({ length: 11 }, () => pax({ comment: 'x' }, 'g'))),
      /more than 10 extended headers/,
    ],
  ])('with %s are refused, in whatever pieces they come', async (_, tar, reason) => {
    const whole = Buffer.concat([tar, END]);
    for (const pieceBytes of [whole.length, 700, 1]) {
      const refused = await check(whole, pieceBytes).catch((error: unknown) => error);
      expect(refused).toBeInstanceOf(ArchiveError);
      expect(String(refused)).toMatch(reason);
    }
  });

  it.each([
    ['of GNU tar, whose prefix holds times', entry({ magic: 'ustar ', prefix: '0\x001' })],
    ['without a magic', entry({ magic: '' })],
    ['with a long name', Buffer.concat([entry({ type: 'L', body: `${'a'.repeat(150)}\0` }), FILE])],
    ['with a comment for all, as git writes it', Buffer.concat([pax({ comment: 'x' }, 'g'), FILE])],
    ['with a time by PAX', Buffer.concat([pax({ mtime: '1.5', path: 'b' }), FILE])],
    ['with an empty value', Buffer.concat([pax({ a: '' }), FILE])],
    ['with folders and links', Buffer.concat([entry({ type: '5' }), entry({ type: '2' }), FILE])],
    ['with a size of base 256', entry({ size: Buffer.from('800000000000000000000000', 'hex') })],
    [
      'with a size by PAX that a header has no room for',
      Buffer.concat([
        pax({ size: '4' }),
        entry({ size: '00000000000\0' }).subarray(0, 512),
        Buffer.alloc(512, 'x'),
        FILE,
      ]),
    ],
    ['that end with more zeros than two blocks', Buffer.concat([FILE, Buffer.alloc(20 * 512)])],
  ])('%s pass as they are', async (_, tar) => {
    const whole = Buffer.concat([tar, END]);
    for (const pieceBytes of [whole.length, 700, 1])
      expect((await check(whole, pieceBytes)).equals(whole)).toBe(true);
  });

  it('of our own archives pass unchanged, with bodies of any length', async () => {
    const packer = pack();
    for (const size of [0, 1, 511, 512, 513, 100_000])
      packer.entry({ name: `f${size}`.padEnd(120, 'x') }, Buffer.alloc(size, 'b'));
    packer.finalize();
    const tar = await buffer(packer);
    for (const pieceBytes of [65_536, 511]) expect((await check(tar, pieceBytes)).equals(tar)).toBe(true);
  });
});
