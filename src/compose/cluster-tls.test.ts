import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { loadConfig } from '../config/load.ts';
import { type Log, silentLog } from '../lib/log.ts';
import { openClusterTls } from './cluster-tls.ts';

let folder: string;
let keyFile: string;
beforeEach(async () => {
  folder = await makeTempFolder('cluster');
  keyFile = join(folder, 'key');
});
afterEach(() => removeFolder(folder));

it('the keys of a cluster are read again on request, and if that fails, the last good ones stay in use', async () => {
  const told: string[] = [];
  const tell = (_: object, message: string) => void told.push(message);
  const log: Log = { ...silentLog, info: tell, error: tell };
  await writeFile(keyFile, 'a'.repeat(32));
  const { origin } = await loadConfig({ env: {} });
  const address = { host: '127.0.0.1', port: 5003 };
  const cluster = { listen: address, advertise: address, keyFile, tls: undefined };
  const opened = await openClusterTls({ cluster, origin }, log);
  const keyOf = () => {
    const { pskCallback } = opened?.tls.forClient ?? {};
    return pskCallback?.(null)?.identity;
  };
  const first = keyOf();
  await opened?.look();
  expect([keyOf(), told]).toEqual([first, []]);
  await writeFile(keyFile, 'b'.repeat(32));
  await opened?.look();
  const second = keyOf();
  expect(second).not.toBe(first);
  await writeFile(keyFile, 'short');
  await opened?.look();
  await rm(keyFile);
  await opened?.look();
  expect(keyOf()).toBe(second);
  expect(told.map(message => /were reloaded|cannot be reloaded/.exec(message)?.[0])).toEqual([
    'were reloaded',
    'cannot be reloaded',
    'cannot be reloaded',
  ]);
  opened?.close();
});
