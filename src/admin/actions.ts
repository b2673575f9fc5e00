import { sizeText } from '../lib/units.ts';
import { CollectingStopped } from '../upkeep/collecting-stopped.ts';
import type { Platform } from '../oci/platform.ts';
import type { Progress } from '../upkeep/stores.ts';
import type { Administrator } from './admin-access.ts';
import type { AdminParts, AdminServer } from './admin-parts.ts';
import { AdminProblem } from './admin-problem.ts';
import type { AdminHandlers, AdminRequest } from './admin-site.ts';
import { COLLECTING, collectGarbage, EXCEEDED, freedBytes, garbageDocument } from './garbage.ts';
import { NotStored } from './inspect.ts';
import { type EndpointTest, skipEvents, testNotifications } from './notifications.ts';
import type { AdminBody } from './operations.ts';
import { changePin, type PinChange } from './pins.ts';
import { removalRefusal, removedDocument } from './removals.ts';
import type { AdminTasks, TaskProgress } from './tasks.ts';
import {
  addTenant,
  adoptNamespace,
  revokeLogins,
  rotateLogin,
  TenantRequestInvalid,
} from './tenant-changes.ts';

/** An image to pull ahead. */
export interface PullOrder {
  readonly image: string;
  /** `all`, or those that are needed; `undefined` for those of the configuration. */
  readonly platforms: 'all' | readonly Platform[] | undefined;
  /** The name of the tenant with whose credentials alone; `undefined` for Entrepot's own. */
  readonly tenant: string | undefined;
  readonly referrers: boolean;
  /** As in `PullOptions`. */
  readonly progress: { expect(bytes: number): void; advance(bytes: number): void };
  readonly signal: AbortSignal;
}

/** An image that is stored now. */
export interface PulledAhead {
  readonly digest: string;
  readonly blobs: number;
  readonly heldBlobs: number;
  readonly fetchedBytes: number;
}

export interface ActionNeeds {
  readonly parts: AdminParts;
  readonly server: Pick<AdminServer, 'delivery'>;
  readonly tasks: AdminTasks;
  /** Rejects with what a client would be told. */
  readonly pull: (order: PullOrder) => Promise<PulledAhead>;
  /** Sends a test event to an endpoint of notifications; `undefined` if there is none of this name. */
  readonly testEndpoint: (endpoint: string) => Promise<EndpointTest | undefined>;
  /** Called when something was stored, removed or pinned. */
  readonly onImages: () => void;
}

type ActionId =
  | 'pull'
  | 'refresh'
  | 'pin'
  | 'unpin'
  | 'rm'
  | 'gc'
  | 'scrub'
  | 'notificationTest'
  | 'notificationSkip'
  | 'tenantAdd'
  | 'tenantRotate'
  | 'tenantRevoke'
  | 'tenantAdopt';

/** What the administration API can do, with the words and results of the commands of the same names. */
export function actionHandlers(needs: ActionNeeds): Pick<AdminHandlers, ActionId> {
  const { parts, onImages } = needs;
  const { resolver } = parts;
  return {
    pull: async ({ who, body }) => {
      resolver.repositoryOf(body.image);
      requireTenant(parts, body.tenant);
      return beginPull(needs, who, body);
    },
    refresh: async ({ body: { reference } }) => {
      const digest = await parts.refresh(reference);
      onImages();
      return { image: reference, digest };
    },
    pin: ({ body: { reference }, during }) => pinned(needs, reference, { isPinned: true, during }),
    unpin: ({ body: { reference }, during }) => pinned(needs, reference, { isPinned: false, during }),
    rm: async ({ who, body, during }) => beginRemoval(needs, who, { ...body, during }),
    gc: async ({ who, body }) => beginCollection(needs, who, body),
    scrub: async ({ who, body }) => beginScrub(needs, who, body),
    notificationTest: ({ body: { endpoint } }) => testNotifications(needs.testEndpoint, endpoint),
    notificationSkip: ({ body }) => skipEvents(needs, body),
    tenantAdd: async ({ body: { tenant }, during }) => {
      const added = await inForce(addTenant(parts, tenant, { during })).catch(refuseInvalid);
      return { tenant, added };
    },
    tenantRotate: ({ body, during }) => inForce(rotateLogin(parts, body, { during })).catch(refuseInvalid),
    tenantRevoke: ({ body, during }) => inForce(revokeLogins(parts, body, { during })),
    tenantAdopt: ({ body: { tenant }, during }) => inForce(adoptNamespace(parts, tenant, { during })),
  };

  /** Changes of tenants count here before the answer; this process is told only of those of others. */
  async function inForce<T>(changing: Promise<T>): Promise<T> {
    const changed = await changing;
    await parts.tenants.reload();
    return changed;
  }
}

function refuseInvalid(error: unknown): never {
  throw error instanceof TenantRequestInvalid ? new AdminProblem('invalid', error.message) : error;
}

function requireTenant({ tenants }: AdminParts, name: string | undefined): void {
  if (name === undefined || tenants.find(name) !== undefined) return;
  throw new AdminProblem('not-found', `there is no tenant named ${name}`);
}

async function pinned({ parts, onImages }: ActionNeeds, reference: string, change: PinChange) {
  const changed = await changePin(parts, reference, change).catch((error: unknown) => {
    throw error instanceof NotStored ? new AdminProblem('not-found', error.message) : error;
  });
  onImages();
  return { image: reference, pinned: change.isPinned, changed };
}

type Begin<Id extends 'pull' | 'gc' | 'scrub'> = (
  needs: ActionNeeds,
  who: Administrator,
  body: Parameters<AdminHandlers[Id]>[0]['body'],
) => ReturnType<AdminTasks['begin']>;

const beginPull: Begin<'pull'> = ({ tasks, pull, onImages }, who, { image, platforms, tenant, referrers }) =>
  tasks.begin({
    action: 'pull',
    subject: image,
    who,
    work: async (progress, signal) => {
      const counts = { total: 0, bytes: 0 };
      const pulled = await pull({
        image,
        platforms,
        tenant,
        referrers,
        signal,
        progress: {
          expect: bytes => progress.expect((counts.total += bytes)),
          advance: bytes => progress.set({ items: 0, bytes: (counts.bytes += bytes) }),
        },
      });
      onImages();
      const { digest, fetchedBytes, blobs, heldBlobs } = pulled;
      const message =
        fetchedBytes === 0
          ? `${digest} was already stored`
          : `${digest}, ${blobs - heldBlobs} of ${blobs} blobs fetched`;
      return { message, result: { image, ...pulled } };
    },
  });

const beginRemoval = (
  { parts, tasks, onImages }: ActionNeeds,
  who: Administrator,
  { reference, force, purge, during }: AdminBody<'rm'> & Pick<AdminRequest<'rm'>, 'during'>,
) => {
  const { repository, tag, digest } = parts.resolver.repositoryOf(reference);
  return tasks.begin({
    action: 'rm',
    subject: reference,
    who,
    work: async (_, signal) => {
      const run = { force, purge, signal, during };
      // Of one that is cancelled, something may be removed.
      const removing = parts.removal.remove(repository, digest ?? tag, run).finally(onImages);
      const removed = await removing.catch((error: unknown) => {
        const refusal = removalRefusal(reference, error);
        throw refusal === undefined ? error : new Error(refusal);
      });
      if (removed === undefined) throw new Error(`${reference}: nothing of it is stored`);
      const message = `removed${purge ? `; freed ${sizeText(removed.freedBytes)}` : ''}`;
      return { message, result: removedDocument(reference, removed) };
    },
  });
};

const beginCollection: Begin<'gc'> = ({ parts, tasks, onImages }, who, { dryRun, gracePeriod, force }) =>
  tasks.begin({
    action: 'gc',
    subject: null,
    who,
    work: async (progress, signal) => {
      const report = await collectGarbage(parts.upkeep, {
        dryRun,
        force,
        gracePeriodMs: gracePeriod,
        signal,
        onProgress: toldTo(progress),
        waitingFor: work => () => progress.step(`waiting for another process that is ${work}`),
      }).catch((error: unknown) => {
        throw error instanceof CollectingStopped
          ? new Error(`no garbage is collected: ${error.message}`)
          : error;
      });
      if (report === undefined) throw new Error(`another process is already ${COLLECTING}`);
      if (!dryRun) onImages();
      const { stuckAt } = report.evicted ?? {};
      const rest = stuckAt === undefined ? '' : `; ${EXCEEDED[stuckAt]}, and nothing else can be evicted`;
      const message = `${dryRun ? 'would free' : 'freed'} ${sizeText(freedBytes(report))}${rest}`;
      return { message, result: garbageDocument(report, dryRun) };
    },
  });

const beginScrub: Begin<'scrub'> = ({ parts, tasks, onImages }, who, { dryRun, rate }) =>
  tasks.begin({
    action: 'scrub',
    subject: null,
    who,
    work: async (progress, signal) => {
      progress.expect((await parts.metadata.readTotals()).blobBytes);
      const report = await parts.upkeep.scrub({
        dryRun,
        ...(rate !== undefined && { bytesPerSecond: rate }),
        signal,
        onProgress: toldTo(progress),
        onWait: () => progress.step('waiting for another process that is scrubbing'),
      });
      if (report === undefined) throw new Error('another process is already scrubbing');
      if (report.damaged.length > 0) onImages();
      const { checked, checkedBytes, damaged } = report;
      const message = `checked ${checked} blobs, ${sizeText(checkedBytes)}: ${damaged.length} damaged`;
      const listed = damaged.map(({ kind, digest, reason }) => ({ kind, digest, reason }));
      return { message, result: { checked, checkedBytes, damaged: listed } };
    },
  });

/** Shows the progress of upkeep as that of a task. */
function toldTo(progress: TaskProgress): (progress: Progress) => void {
  let last: string | undefined;
  return ({ step, items, bytes }) => {
    if (step !== last) progress.step(step);
    last = step;
    progress.set({ items, bytes });
  };
}
