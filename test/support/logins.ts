// Who can log in at a running Entrepot, and what it says of its tenants: after a change, soon.
import type { TenantsPage } from '../../src/admin/documents/tenants.ts';
import type { TenantDocument } from '../../src/tenants/tenants-document.ts';
import { get } from './client.ts';
import type { Entrepot } from './entrepot.ts';
import { until } from './programs.ts';
import { challengeOf, type Login, tokenFor } from './tenants.ts';

/** Of a busy machine; on an idle one, changes count within a fraction of a second. */
export const SOON_MS = 60_000;

/** What the token endpoint answers; 404 when nobody can log in. */
export async function loginStatus(login: Login, at: Entrepot): Promise<number> {
  const challenge = challengeOf(await get(`${at.url}/v2/`));
  return challenge['realm'] === undefined ? 404 : (await tokenFor(challenge, login)).status;
}

export async function soonLogsIn(login: Login, at: Entrepot): Promise<void> {
  await until(`${login[0]} to log in`, SOON_MS, async () => (await loginStatus(login, at)) === 200);
}

export async function soonRefused(login: Login, at: Entrepot): Promise<void> {
  await until(`${login[0]} to be refused`, SOON_MS, async () => (await loginStatus(login, at)) === 401);
}

export async function soonLogged(line: RegExp, at: Entrepot): Promise<void> {
  await until(`the log to say ${line}`, SOON_MS, () => Promise.resolve(line.test(at.logs())));
}

/** The watches of a whole cluster: one of each kind, and of Secrets one of each of the two types. */
export const WATCHES = 4;

/** Waits until it follows the cluster. */
export async function soonFollows(at: Entrepot): Promise<void> {
  await until('the cluster to be followed', SOON_MS, async () => (await watchesDown(at)) === 0);
}

/** Waits until it follows nothing of the cluster. */
export async function soonFollowsNothing(at: Entrepot): Promise<void> {
  await until('no watch to stand', SOON_MS, async () => (await watchesDown(at)) >= WATCHES);
}

/** Parts of the cluster that it cannot follow now. */
export async function watchesDown(at: Entrepot): Promise<number> {
  return Number(/^entrepot_kubernetes_watches_down (\d+)$/m.exec(await at.metrics())?.[1]);
}

/** As `entrepot tenants` tells it. */
export async function tenantAt(at: Entrepot, name: string): Promise<TenantDocument | undefined> {
  const { entries } = await at.ask<TenantsPage>(`/admin/v1/tenants?q=${name}`);
  return entries.find(one => one.name === name);
}

/** Waits until the Secrets of a tenant, in their order and each with its state, are these: `pull loaded`. */
export async function soonHasSecrets(at: Entrepot, name: string, expected: readonly string[]): Promise<void> {
  await until(`${name} to have ${expected.join(', ')}`, SOON_MS, async () => {
    const secrets = (await tenantAt(at, name))?.secrets.map(one => `${one.name} ${one.state}`);
    return secrets?.join() === expected.join();
  });
}
