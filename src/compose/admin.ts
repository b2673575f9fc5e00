/** The part of the composition root for the administration API. */

import type { PulledAhead, PullOrder } from '../admin/actions.ts';
import { type Admin, type AdminOptions, openAdmin } from '../admin/admin.ts';
import { AdminAccess, type AdminAccessOptions } from '../admin/admin-access.ts';
import type { EndpointTest } from '../admin/notifications.ts';
import { pageFolder } from '../admin/page-site.ts';
import type { Config } from '../config/config.ts';
import { ClientAddresses } from '../http/client-address.ts';
import { SlotsFull } from '../lib/fair-slots.ts';
import type { Log } from '../lib/log.ts';
import { PacedLines } from '../lib/paced-lines.ts';
import { ANY_NODE } from '../prepull/pod-placement.ts';
import { wantedImages } from '../prepull/wanted-images.ts';
import { AccessReview } from '../tenants/kubernetes/access-review.ts';
import { testEndpoint } from './event-delivery.ts';
import { imageFinding } from './image-finding.ts';
import { kubeClient } from './kubernetes.ts';
import { configuredNames } from './names-reader.ts';
import type { Parts } from './parts.ts';
import { meantImage, pullMeant } from './prepull.ts';

/** Opens the administration API in front of `parts`. */
export async function openAdminOf(
  config: Config,
  parts: Parts,
  needs: Omit<AdminOptions, 'parts' | 'access' | 'pageFolder' | 'wanted' | 'check' | 'pull' | 'testEndpoint'>,
): Promise<Admin> {
  const { log } = needs;
  // Anybody who can reach the port can cause any number of these.
  const wrongLogins = new PacedLines<string>((_, { events, count }) => {
    log.warn({ remotes: [...new Set(events)], count }, 'wrong logins for the administration API');
  });
  const admin = openAdmin({
    ...needs,
    parts,
    access: await accessOf(config, log, remote => wrongLogins.note('', remote)),
    pageFolder: pageFolder(import.meta.url),
    wanted: () => wantedImages(config.prepull, configuredNames()),
    check: async image => {
      const finding = await imageFinding(parts, image.name, () => meantImage(parts, image));
      const { line, missing, reason = null } = finding;
      return { image: image.name, line, complete: reason === null, missing, reason };
    },
    pull: order => pull(parts, order),
    testEndpoint: name => test(config, name),
  });
  const close = async () => {
    await admin.close();
    wrongLogins.close();
  };
  return { ...admin, close };
}

async function accessOf(
  config: Config,
  log: Log,
  onWrongLogin: AdminAccessOptions['onWrongLogin'],
): Promise<AdminAccess> {
  const { trustedProxies, externalUrl, serverNames, opsListen, allowPlainCredentials } = config.server;
  const external = externalUrl === undefined ? [] : [new URL(externalUrl).host];
  return new AdminAccess({
    logins: config.admins,
    onLoopback: config.server.loopbackAdmin,
    kubernetes: await kubernetesOf(config, log),
    addresses: new ClientAddresses({ trustedProxies, externalUrl }),
    names: [...serverNames, ...external, ...(opsListen === false ? [] : [opsListen.host])],
    allowsPlainCredentials: allowPlainCredentials,
    onWrongLogin,
  });
}

/** Whoever may `get` the configured path sees everything; whoever may also `post` to it may change things. */
async function kubernetesOf(config: Config, log: Log): Promise<AdminAccessOptions['kubernetes']> {
  const path = config.kubernetes?.adminPath;
  if (path === undefined) return undefined;
  const reviews = new AccessReview(await kubeClient(config, log), path, ['get', 'post']);
  return async (token, source) => {
    const reviewed = await reviews.review(token, source).catch((error: unknown) => {
      if (error instanceof SlotsFull)
        log.debug({ source }, 'too many tokens wait to be judged by the cluster');
      else
        log.warn({ err: error }, 'the cluster could not be asked about a token for the administration API');
      throw error;
    });
    if (reviewed === undefined || !reviewed.verbs.has('get')) return undefined;
    return { name: reviewed.user, rights: reviewed.verbs.has('post') ? 'full' : 'read' };
  };
}

/** As `entrepot notify` does. */
async function test(config: Config, name: string): Promise<EndpointTest | undefined> {
  const endpoint = config.notifications.endpoints.find(each => each.name === name);
  if (endpoint === undefined) return undefined;
  const { DeliveryFailed } = await import('../events/endpoint-client.ts');
  return testEndpoint(config, endpoint).catch((error: unknown) => {
    if (error instanceof DeliveryFailed) return { failure: error.message };
    throw error;
  });
}

/** As `entrepot pull` does. */
async function pull(
  parts: Parts,
  { image, platforms, tenant: name, ...options }: PullOrder,
): Promise<PulledAhead> {
  const tenant = name === undefined ? undefined : parts.tenants.find(name);
  const wanted = { name: image, placements: [ANY_NODE], platforms: new Set<string>() };
  const usual = meantImage(parts, wanted, tenant);
  const meant =
    platforms === undefined ? usual : { ...usual, platforms: platforms === 'all' ? undefined : platforms };
  const { digest, blobs, heldBlobs, fetchedBytes } = await pullMeant(parts, meant, { ...options, tenant });
  return { digest, blobs, heldBlobs, fetchedBytes };
}
