// Tenants as tests write them, and a client that logs in as real ones do.
import { rename, writeFile } from 'node:fs/promises';
import { get, type GetOptions, type Got } from './client.ts';

/** A user name and a password. */
export type Login = readonly [username: string, password: string];

/** A Secret manifest with these logins, by the registry that they are for. */
export function secretManifest(name: string, logins: Readonly<Record<string, Login>>): string {
  const auths = Object.fromEntries(
    Object.entries(logins).map(([server, [username, password]]) => [server, { username, password }]),
  );
  const config = Buffer.from(JSON.stringify({ auths })).toString('base64');
  return JSON.stringify({
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { name },
    type: 'kubernetes.io/dockerconfigjson',
    data: { '.dockerconfigjson': config },
  });
}

/** Writes a Secret manifest in one step, as a rotation does. */
export async function writeSecret(file: string, logins: Readonly<Record<string, Login>>): Promise<void> {
  await writeFile(`${file}.new`, secretManifest('pull', logins));
  await rename(`${file}.new`, file);
}

export function basic([username, password]: Login): { readonly authorization: string } {
  return { authorization: `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}` };
}

/** `realm`, `service`, `scope` and `error` of a Bearer challenge. */
export function challengeOf(got: Got): Readonly<Record<string, string>> {
  const header = got.headers['www-authenticate'] ?? '';
  return Object.fromEntries(
    [...header.matchAll(/(\w+)="([^"]*)"/g)].map(([, key = '', value = '']) => [key, value]),
  );
}

/** A token for a challenge, or what the token endpoint answered instead. */
export async function tokenFor(challenge: Readonly<Record<string, string>>, login?: Login): Promise<Got> {
  const query = new URLSearchParams({ service: challenge['service'] ?? '' });
  if (challenge['scope'] !== undefined) query.set('scope', challenge['scope']);
  return get(
    `${challenge['realm']}?${query.toString()}`,
    login === undefined ? {} : { headers: basic(login) },
  );
}

/** Asks as containerd does: without anything, then with a token for the challenge. */
export async function getAs(login: Login | undefined, url: string, options: GetOptions = {}): Promise<Got> {
  const first = await get(url, options);
  if (first.status !== 401) return first;
  const answered = await tokenFor(challengeOf(first), login);
  if (answered.status !== 200) return answered;
  const { token }: { token: string } = JSON.parse(answered.text);
  return get(url, { ...options, headers: { ...options.headers, authorization: `Bearer ${token}` } });
}
