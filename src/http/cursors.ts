import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { OciError } from '../oci/errors.ts';
import { MAX_REPOSITORY_LENGTH } from '../oci/reference.ts';

const CIPHER = 'aes-256-gcm';
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
/** A length and the longest name. Shorter names are padded, so that the length of a cursor reveals nothing. */
const NAME_BYTES = 1 + MAX_REPOSITORY_LENGTH;

/** No name begins with it. */
const SEALED = '~';

/**
 * Cursors of listings. A page may end at a name that its reader may not see; that name is then encrypted with the
 * store's key, so that any process on the store can continue there.
 */
export class Cursors {
  readonly #key: Buffer;

  /** `key`: 32 bytes in hex. */
  constructor(key: string) {
    this.#key = Buffer.from(key, 'hex');
  }

  /** `name` encrypted as `last` of the next page; a different text each time. */
  seal(name: string): string {
    const plain = Buffer.alloc(NAME_BYTES);
    plain[0] = plain.write(name, 1);
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv(CIPHER, this.#key, nonce);
    const sealed = Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
    return SEALED + sealed.toString('base64url');
  }

  /**
   * The name that `last` means: itself, or the one encrypted in it. Throws QUERY_INVALID if it was not encrypted here.
   */
  open(last: string): string {
    if (!last.startsWith(SEALED)) return last;
    const sealed = Buffer.from(last.slice(SEALED.length), 'base64url');
    if (sealed.length !== NONCE_BYTES + NAME_BYTES + TAG_BYTES) throw notOurs();
    const decipher = createDecipheriv(CIPHER, this.#key, sealed.subarray(0, NONCE_BYTES));
    decipher.setAuthTag(sealed.subarray(-TAG_BYTES));
    try {
      const plain = Buffer.concat([
        decipher.update(sealed.subarray(NONCE_BYTES, -TAG_BYTES)),
        decipher.final(),
      ]);
      return plain.toString('utf8', 1, 1 + (plain[0] ?? 0));
    } catch {
      throw notOurs();
    }
  }
}

function notOurs(): OciError {
  return new OciError('QUERY_INVALID', {
    message: 'last is neither a name nor a value from a page of this list',
  });
}
