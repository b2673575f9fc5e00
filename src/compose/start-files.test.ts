import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { loadConfig } from '../config/load.ts';
import { StartFiles } from './start-files.ts';

let folder: string;
beforeEach(async () => void (folder = await makeTempFolder('start')));
afterEach(() => removeFolder(folder));

it('a change of a file that is read only at the start is detected by its content, also in a folder', async () => {
  const [s3, postgres, providers] = ['s3.pem', 'postgres.pem', 'providers'].map(name => join(folder, name));
  await mkdir(String(providers));
  // As in a mounted ConfigMap.
  await mkdir(join(String(providers), 'folder'));
  for (const file of [s3, postgres, join(String(providers), 'a.yaml')]) await writeFile(String(file), 'text');
  const config = await loadConfig({
    env: {},
    overrides: {
      storage: { path: folder, s3: { bucket: 'blobs', caFile: s3 } },
      index: { postgres: { host: 'db', tls: { caFile: postgres } } },
      credentialProviders: { configFile: providers, binDir: folder },
    },
  });
  const files = await StartFiles.read(config);
  expect(await files.changed()).toEqual([]);
  await writeFile(String(s3), 'other');
  await writeFile(join(String(providers), 'b.yaml'), 'text');
  expect(await files.changed()).toEqual(['storage.s3.caFile', 'credentialProviders.configFile']);
  await writeFile(String(s3), 'text');
  await rm(String(postgres));
  expect(await files.changed()).toEqual(['index.postgres.tls.caFile', 'credentialProviders.configFile']);
});
