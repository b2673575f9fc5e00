// The operator's page as it is built and served: small, complete, and without a word of script in its document.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { get } from '../support/client.ts';
import { Entrepot } from '../support/entrepot.ts';

const BUILT = fileURLToPath(new URL('../../dist/ui/', import.meta.url));

/** What a browser has to get before it shows anything, compressed. */
const MAX_SCRIPT_BYTES = 45 * 1024;
const MAX_STYLE_BYTES = 8 * 1024;

async function compressedBytes(extension: string): Promise<number> {
  const names = (await readdir(BUILT, { recursive: true })).filter(name => name.endsWith(extension));
  expect(names.length).toBeGreaterThan(0);
  const files = await Promise.all(names.map(name => readFile(join(BUILT, name))));
  return files.reduce((sum, bytes) => sum + gzipSync(bytes, { level: 9 }).byteLength, 0);
}

describe('the built page', () => {
  it('is small', async () => {
    expect(await compressedBytes('.js')).toBeLessThanOrEqual(MAX_SCRIPT_BYTES);
    expect(await compressedBytes('.css')).toBeLessThanOrEqual(MAX_STYLE_BYTES);
  });

  it('names only files of its own, and has no script or style in its document', async () => {
    const html = await readFile(join(BUILT, 'index.html'), 'utf8');
    const named = [...html.matchAll(/(?:src|href)="([^"]*)"/g)].map(([, name = '']) => name);
    expect(named.length).toBeGreaterThanOrEqual(3);
    for (const name of named) {
      expect(name).toMatch(/^\.\/assets\/[\w-]+-[\w-]{8}\.\w+$/);
      await readFile(join(BUILT, name));
    }
    expect(html).not.toMatch(/<script(?![^>]* src=)|<style|\son\w+=|\sstyle=|javascript:/i);
  });

  it('asks nobody else: no address of another host is in its files, but names of namespaces', async () => {
    const names = (await readdir(BUILT, { recursive: true })).filter(name => /\.(?:js|css|html)$/.test(name));
    const texts = await Promise.all(names.map(name => readFile(join(BUILT, name), 'utf8')));
    const addresses = texts.flatMap(text => text.match(/(?:https?|wss?):\/\/[\w.-]+/g) ?? []);
    expect([...new Set(addresses)].filter(address => address !== 'http://www.w3.org')).toEqual([]);
  });

  it('comes with the licenses of what is in it', async () => {
    const text = await readFile(join(BUILT, 'licenses.txt'), 'utf8');
    for (const name of ['preact ', '@preact/signals ', '@preact/signals-core ']) expect(text).toContain(name);
  });
});

describe('the served page', () => {
  let entrepot: Entrepot;

  beforeAll(async () => {
    entrepot = await Entrepot.start();
  });

  afterAll(() => entrepot.remove());

  it('is there with all its files, on the operations port only', async () => {
    const document = await get(`${entrepot.ops}/ui/`);
    expect(document.status).toBe(200);
    for (const [, name = ''] of document.text.matchAll(/(?:src|href)="\.\/([^"]*)"/g)) {
      const { status, headers } = await get(`${entrepot.ops}/ui/${name}`);
      expect([name, status, headers['cache-control']]).toEqual([
        name,
        200,
        'private, max-age=31536000, immutable',
      ]);
    }
    expect((await get(`${entrepot.url}/ui/`)).status).toBe(404);
  });

  it('is refused under a name of somebody else, and to pages elsewhere', async () => {
    const refused = [
      { host: 'evil.example' },
      { origin: 'https://evil.example' },
      { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'iframe' },
    ];
    for (const headers of refused) {
      const { status, text } = await get(`${entrepot.ops}/ui/`, { headers });
      expect([status, text]).toEqual([403, expect.stringContaining('web page of another site')]);
    }
  });
});
