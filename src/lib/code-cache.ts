import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';

/** In the folder of the scripts. */
const FOLDER = 'code-cache';
/** The checksum, and what aligns the code, which V8 would copy otherwise. */
const HEADER_BYTES = 8;

/**
 * What V8 has compiled of the script `name` in `folder`; `undefined` if there is nothing that belongs to this `source`,
 * Node and platform, or it cannot be read or is damaged.
 *
 * V8 checks that its own version made the code, with the same flags, but neither that it is intact, nor what source it
 * belongs to, beyond its length: it would run something else, or crash.
 */
export function readCode(folder: string, name: string, source: Buffer): Buffer | undefined {
  try {
    const file = readFileSync(join(folder, FOLDER, name));
    const code = file.subarray(HEADER_BYTES);
    return file.readUInt32LE() === checksum(code, source) ? code : undefined;
  } catch {
    return undefined;
  }
}

/** Writes what `readCode` returns, for all users who may read `folder`. */
export function writeCode(folder: string, name: string, source: Buffer, code: Buffer): void {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32LE(checksum(code, source));
  mkdirSync(join(folder, FOLDER), { recursive: true });
  writeFileSync(join(folder, FOLDER, name), Buffer.concat([header, code]));
}

function checksum(code: Buffer, source: Buffer): number {
  const { version, platform, arch } = process;
  return crc32(code, crc32(source, crc32(`${version} ${platform} ${arch}`)));
}
