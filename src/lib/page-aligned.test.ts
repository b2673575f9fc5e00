import { randomFillSync } from 'node:crypto';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { expect, it } from 'vitest';
import { errorCode } from './error-code.ts';
import { pageAligned } from './page-aligned.ts';

const PAGE_BYTES = 4096;

it.runIf(process.platform === 'linux')('begins at a page of the machine', () => {
  const buffers = [16 * 1024, 512 * 1024, 1024 * 1024].map(bytes => randomFillSync(pageAligned(bytes)));
  const beginnings = pagesOfThisProcess();
  for (const buffer of buffers) expect(beginnings).toContain(beginning(buffer));
});

function beginning(page: Buffer): string {
  return page.toString('hex', 0, 16);
}

/** The first bytes of each writable page of memory that it shares with nobody. */
function pagesOfThisProcess(): Set<string> {
  const found = new Set<string>();
  const memory = openSync('/proc/self/mem', 'r');
  const page = Buffer.alloc(PAGE_BYTES);
  for (const [, from = '', to = ''] of readFileSync('/proc/self/maps', 'utf8').matchAll(
    /^([\da-f]+)-([\da-f]+) rw.p/gm,
  )) {
    const end = Number.parseInt(to, 16);
    for (let at = Number.parseInt(from, 16); at < end; at += PAGE_BYTES) {
      try {
        readSync(memory, page, 0, 16, at);
      } catch (error) {
        // V8's other threads have freed it meanwhile.
        if (errorCode(error) !== 'EIO') throw error;
        continue;
      }
      found.add(beginning(page));
    }
  }
  closeSync(memory);
  return found;
}
