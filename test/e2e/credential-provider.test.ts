// The kubelet's plugin as a node has it: one file in a folder of its own, and Node.
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { decodeResponse } from '../../src/tenants/credential-provider.ts';
import { tryRun } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const BUILT = fileURLToPath(new URL('../../dist/entrepot-credential-provider.cjs', import.meta.url));
const REQUEST = {
  kind: 'CredentialProviderRequest',
  apiVersion: 'credentialprovider.kubelet.k8s.io/v1',
  image: 'docker.io/library/nginx',
};

let folder: string;
let plugin: string;

beforeAll(async () => {
  folder = await makeTempFolder('plugin');
  plugin = join(folder, 'entrepot-credential-provider');
  await copyFile(BUILT, plugin);
});

afterAll(() => removeFolder(folder));

test('works as a single file', async () => {
  const input = JSON.stringify({ ...REQUEST, serviceAccountToken: 'a token' });
  const { code, stdout } = await tryRun(plugin, [], { input, cwd: folder });
  expect(code).toBe(0);
  expect(decodeResponse(stdout).auth.get('docker.io')).toEqual({
    username: 'serviceaccount',
    password: 'a token',
  });
});

test('accepts the options of the command', async () => {
  const args = ['--username', 'node', '--password-env', 'SECRET'];
  const options = { input: JSON.stringify(REQUEST), env: { ...process.env, SECRET: 'of the node' } };
  const { stdout } = await tryRun(plugin, args, options);
  expect(decodeResponse(stdout).auth.get('docker.io')).toEqual({ username: 'node', password: 'of the node' });
});

test('says what is missing, and ends with 1', async () => {
  const { code, stdout, stderr } = await tryRun(plugin, [], { input: JSON.stringify(REQUEST) });
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  expect(stderr).toContain('neither --password-file nor --password-env');
});
