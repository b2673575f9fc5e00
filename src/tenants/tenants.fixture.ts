import { mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Clock, systemClock } from '../lib/clock.ts';

/** How long changes of watched folders are collected. */
const DEBOUNCE_MS = 100;

/**
 * For what watches folders, with changes in real time: the regular rescan, which would find them, too, never comes, so
 * that they have to be noticed.
 */
export const WITHOUT_RESCAN: Clock = {
  ...systemClock,
  after: (delayMs, run) => systemClock.after(delayMs <= DEBOUNCE_MS ? delayMs : 3_600_000, run),
};

/** The text of a Docker config with one login per registry key: `{ 'reg.example': 'user:password' }`. */
export function dockerConfig(logins: Readonly<Record<string, string>>): string {
  const auths = Object.entries(logins).map(([key, login]) => [
    key,
    { auth: Buffer.from(login).toString('base64') },
  ]);
  return JSON.stringify({ auths: Object.fromEntries(auths) });
}

/** A Secret manifest as `kubectl create secret docker-registry --dry-run -o json` writes it. */
export function secretManifest(name: string, logins: Readonly<Record<string, string>>): object {
  return {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { name },
    type: 'kubernetes.io/dockerconfigjson',
    data: { '.dockerconfigjson': Buffer.from(dockerConfig(logins)).toString('base64') },
  };
}

let mounts = 0;

/**
 * Mounts a Secret at `folder` as the kubelet does, or replaces what is mounted there: the data is in a folder of its
 * own, to which a symlink points that is replaced in one step.
 */
export async function mountSecret(
  folder: string,
  text: string,
  dataKey = '.dockerconfigjson',
): Promise<void> {
  mounts += 1;
  const data = `..2026_11_24.${mounts}`;
  await mkdir(join(folder, data), { recursive: true });
  await writeFile(join(folder, data, dataKey), text);
  await symlink(data, join(folder, '..data_tmp'));
  await rename(join(folder, '..data_tmp'), join(folder, '..data'));
  await symlink(join('..data', dataKey), join(folder, dataKey)).catch(() => {});
  const old = `..2026_11_24.${mounts - 1}`;
  await rm(join(folder, old), { recursive: true, force: true });
}
