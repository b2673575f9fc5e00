// What a server loads that has a folder and nothing else: start and memory are those of the program that it needs.
import { readdirSync, readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, PROJECT } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

/** Something that only the code of each part says, in whichever chunks that is. */
const PARTS = {
  'PostgreSQL’s client': 'SCRAM-SHA-256',
  'the index in PostgreSQL': 'pg_advisory_xact_lock',
  S3: 'x-amz-content-sha256',
  'requests between replicas': 'entrepot-repositories',
  'keys of replicas': 'ECDHE-PSK-CHACHA20-POLY1305',
  'certificates of replicas': 'no name in common with that of this replica',
};

/** Writes the names of all chunks that the process and its threads read, when it ends. */
const RECORDER = `
const fs = require('node:fs');
const read = fs.readFileSync;
fs.readFileSync = (path, ...rest) => {
  if (String(path).endsWith('.cjs')) fs.appendFileSync(process.env.READ_CHUNKS, path + '\\n');
  return read(path, ...rest);
};
`;

let folder: string;
let upstream: FakeUpstream;

beforeEach(async () => {
  folder = await makeTempFolder('modules');
  upstream = await FakeUpstream.start();
});

afterEach(async () => {
  await upstream.stop();
  await removeFolder(folder);
});

const chunks = join(PROJECT, 'dist');

/** The chunks that have something of a part. */
function chunksWith(text: string): readonly string[] {
  return readdirSync(chunks).filter(
    name => name.endsWith('.cjs') && readFileSync(join(chunks, name), 'utf8').includes(text),
  );
}

it('a server with a folder and SQLite loads nothing of PostgreSQL, S3 and replicas, nor does a pull through it', async () => {
  const [recorder, list] = [join(folder, 'recorder.cjs'), join(folder, 'read')];
  await writeFile(recorder, RECORDER);
  const layer = randomBlob(1_000_000, 'layer');
  upstream.add('library/app', imageOf([layer]), 'v1');
  const env = { NODE_OPTIONS: `--require ${recorder}`, READ_CHUNKS: list };
  const server = await Entrepot.start({ upstreams: { 'up.example': { url: upstream.url } } }, { env });
  try {
    expect((await get(`${server.url}/v2/library/app/manifests/v1?ns=up.example`)).status).toBe(200);
    const got = await get(`${server.url}/v2/library/app/blobs/${layer.digest}?ns=up.example`);
    expect(got).toMatchObject({ status: 200, bytes: layer.size });
  } finally {
    await server.remove();
  }
  const read = new Set((await readFile(list, 'utf8')).split('\n').map(path => basename(path)));
  expect(read).toContain('main.cjs');
  const loaded: Record<string, readonly string[]> = {};
  for (const [part, text] of Object.entries(PARTS)) {
    const having = chunksWith(text);
    if (having.length === 0) throw new Error(`no chunk says ${text}`);
    loaded[part] = having.filter(name => read.has(name));
  }
  expect(loaded).toEqual(Object.fromEntries(Object.keys(PARTS).map(part => [part, []])));
});
