import { execFileSync } from 'node:child_process';
import { createServer } from 'node:https';
import { connect } from 'node:tls';
import { rename, symlink, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { type Log, silentLog } from '../lib/log.ts';
import { certificateTrouble, TlsFiles } from './tls-files.ts';

const LOOK_EVERY_MS = 20;

let folder: string;
let paths: { certFile: string; keyFile: string };

beforeEach(async () => {
  folder = await makeTempFolder('tls');
  paths = { certFile: join(folder, 'tls.crt'), keyFile: join(folder, 'tls.key') };
  makePair('first');
  await link('first');
});
afterEach(() => removeFolder(folder));

/** A pair under its own names, which `link` puts in place as a mounted Secret does: by swapping links. */
function makePair(name: string): void {
  const args = [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:prime256v1',
    '-nodes',
    '-days',
    '30',
  ];
  const files = [
    '-subj',
    `/CN=${name}`,
    '-keyout',
    join(folder, `${name}.key`),
    '-out',
    join(folder, `${name}.crt`),
  ];
  execFileSync('openssl', [...args, ...files], { stdio: 'ignore' });
}

async function link(name: string): Promise<void> {
  for (const [file, ending] of [
    [paths.certFile, 'crt'],
    [paths.keyFile, 'key'],
  ] as const) {
    await symlink(join(folder, `${name}.${ending}`), `${file}.new`);
    await rename(`${file}.new`, file);
  }
}

describe('the certificate of a server', () => {
  it('is replaced when its files change, without a restart and without breaking connections', async () => {
    const files = await TlsFiles.open(paths, silentLog, LOOK_EVERY_MS);
    const server = createServer(files.material, (_req, res) => res.end());
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
    const renewed = new Promise<void>(resolve =>
      files.follow(material => {
        server.setSecureContext(material);
        resolve();
      }),
    );
    const address = server.address();
    const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
    try {
      expect(await nameShown(port)).toBe('first');
      makePair('second');
      await link('second');
      await renewed;
      expect(await nameShown(port)).toBe('second');
    } finally {
      files.close();
      server.close();
    }
  });

  it('stays as it was while the new pair does not match', async () => {
    const files = await TlsFiles.open(paths, silentLog, LOOK_EVERY_MS);
    const first = files.material;
    const renewals: string[] = [];
    files.follow(({ cert }) => renewals.push(cert));
    makePair('second');
    await unlink(paths.certFile);
    await symlink(join(folder, 'second.crt'), paths.certFile);
    await new Promise(resolve => setTimeout(resolve, LOOK_EVERY_MS * 10));
    expect([renewals, files.material]).toEqual([[], first]);
    files.close();
  });

  it('is reported once when it expires soon, and once when it has expired, also while the server runs', async () => {
    const DAY_MS = 86_400_000;
    const nowMs = Date.now();
    const told: string[] = [];
    const log: Log = { ...silentLog, warn: (_, message) => void told.push(message) };
    vi.useFakeTimers({ toFake: ['Date'], now: nowMs });
    try {
      const files = await TlsFiles.open(paths, log);
      const troubles = [];
      for (const day of [0, 22, 24, 25, 31, 32]) {
        vi.setSystemTime(nowMs + day * DAY_MS);
        await files.look(() => {});
        troubles.push(certificateTrouble(files.material)?.replace(/ \(.*/, ''));
      }
      const [soon, ended] = ['expires soon', 'has expired: clients refuse it'];
      expect(troubles).toEqual([undefined, undefined, soon, soon, ended, ended]);
      expect(told).toEqual([`the certificate ${soon}`, `the certificate ${ended}`]);
      vi.setSystemTime(nowMs - DAY_MS);
      expect(certificateTrouble(files.material)).toMatch(/^is not valid yet: clients refuse it \(.* GMT\)$/);
    } finally {
      vi.useRealTimers();
    }
  });

  it('is refused at the start if it is invalid, or does not match the key', async () => {
    makePair('other');
    const other = { ...paths, keyFile: join(folder, 'other.key') };
    await expect(TlsFiles.open(other, silentLog)).rejects.toThrow(/does not match the certificate/);
    await writeFile(join(folder, 'junk'), 'junk');
    const junk = { ...paths, certFile: join(folder, 'junk') };
    await expect(TlsFiles.open(junk, silentLog)).rejects.toThrow(/junk is not a certificate in PEM$/);
    await expect(TlsFiles.open({ ...paths, keyFile: join(folder, 'none') }, silentLog)).rejects.toThrow(
      /none cannot be read: it does not exist \(ENOENT\)$/,
    );
  });
});

function nameShown(port: number): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', port, rejectUnauthorized: false }, () => {
      resolve(String(socket.getPeerCertificate().subject.CN));
      socket.destroy();
    }).on('error', reject);
  });
}
