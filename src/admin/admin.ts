import type { Log } from '../lib/log.ts';
import type { OpsSite } from '../http/ops-server.ts';
import type { Refusal } from '../http/refusal.ts';
import { isDigest } from '../oci/digest.ts';
import type { Audit } from '../ops/audit.ts';
import { type ActionNeeds, actionHandlers } from './actions.ts';
import type { AdminAccess } from './admin-access.ts';
import type { AdminParts, AdminServer } from './admin-parts.ts';
import { AdminProblem } from './admin-problem.ts';
import { type AdminDeed, type AdminHandlers, AdminSite } from './admin-site.ts';
import { AuditTrail } from './audit-trail.ts';
import { backoffsDocument } from './backoffs.ts';
import { bundlesDocument } from './bundles.ts';
import type { StatusDocument } from './documents/status.ts';
import { AdminEvents } from './events.ts';
import { FillList } from './fills.ts';
import { imagesDocument } from './images.ts';
import { inspectDocument, inspectImage, NotStored } from './inspect.ts';
import { LiveView } from './live-view.ts';
import type { NextToGo } from './next-to-go.ts';
import { adminDescription } from './openapi.ts';
import { Overview } from './overview.ts';
import { notificationsDocument } from './notifications.ts';
import { partialsDocument } from './partials.ts';
import { PageSite } from './page-site.ts';
import { PrepullList, type PrepullNeeds } from './prepull.ts';
import { queueDocument } from './queue.ts';
import { Refusals } from './refusals.ts';
import { AdminTasks } from './tasks.ts';
import { tenantsPage } from './tenants.ts';
import { upkeepDocument } from './upkeep.ts';
import { uploadsDocument } from './uploads.ts';
import { upstreamDocuments } from './upstreams.ts';

export interface AdminOptions extends PrepullNeeds, Pick<ActionNeeds, 'pull' | 'testEndpoint'> {
  readonly parts: AdminParts;
  readonly server: AdminServer;
  readonly access: AdminAccess;
  /** Where the files of the page are. */
  readonly pageFolder: string;
  /** The state of the server, as `entrepot status` shows it. */
  readonly status: () => Promise<StatusDocument>;
  /** As for `status`. */
  readonly next: NextToGo;
  /** `undefined` without an audit log. */
  readonly audit: Audit | undefined;
  readonly log: Log;
}

/** The administration API of a server, until it is closed. */
export interface Admin {
  /** The API, and the page that shows it. */
  readonly sites: readonly OpsSite[];
  /** Remembers what a client was refused. */
  readonly onRefusal: (refusal: Refusal) => void;
  /** Ends streams, and cancels what is running. */
  close(): Promise<void>;
}

/** Opens the administration API on the parts of a server. */
export function openAdmin(options: AdminOptions): Admin {
  const { parts, server, access, log, audit } = options;
  const { config, clock } = parts;
  const live = new LiveView(parts, server);
  const fills = new FillList();
  const refusals = new Refusals();
  const tasks = new AdminTasks();
  const trail = new AuditTrail({ output: config.audit.output, auditFile: config.audit.auditFile, audit });
  const overview = new Overview({ parts, server, live, tasks });
  const events = new AdminEvents({
    observe: async () => ({
      fills: fills.look(await live.downloads()),
      queue: queueDocument(parts.mirror.queue, config.pulls),
      overview: await overview.now(),
      upstreams: upstreamDocuments(parts, await live.reports()),
      replicas: { entries: server.replicas },
    }),
    isStored: digest => isStored(parts, digest),
    refusals,
    clock,
    log,
  });
  const record = (deed: AdminDeed): void => {
    trail.record(deed);
    const { who, action, subject, outcome, reason } = deed;
    log.info({ admin: who.name, remote: who.remote, action, subject, outcome, reason }, 'administration');
  };
  const unlisten = [
    tasks.onChange((task, who) => {
      events.noteTask(task);
      const { action, subject, state, ended, message } = task;
      if (ended === null) return;
      const outcome = state === 'done' ? 'allowed' : 'failed';
      record({
        who,
        action: `${action} ended`,
        subject: subject ?? undefined,
        outcome,
        reason: message ?? undefined,
      });
    }),
    trail.onRecord(() => events.note('audit')),
    parts.tenants.onChange(() => events.note('tenants')),
    server.delivery.onChange(() => events.note('notifications')),
  ];
  const handlers: AdminHandlers = {
    ...readHandlers(options, { live, fills, refusals, tasks, trail, overview }),
    ...actionHandlers({
      parts,
      server,
      tasks,
      pull: options.pull,
      testEndpoint: options.testEndpoint,
      onImages: () => events.note('images'),
    }),
  };
  let description: string | undefined;
  const site = new AdminSite({
    access,
    handlers,
    events,
    description: () => (description ??= adminDescription(server.version)),
    record,
    presence: () => parts.metadata.presence,
    clock,
    log,
  });
  return {
    sites: [site, new PageSite({ folder: options.pageFolder, access })],
    onRefusal: refusal => refusals.add(refusal),
    close: async () => {
      for (const stop of unlisten) stop();
      await events.close();
      await tasks.close();
    },
  };
}

/** What answers questions. What `mirror` remembers concerns all processes: they tell each other. */
function readHandlers(
  options: AdminOptions,
  { live, fills, refusals, tasks, trail, overview }: Made,
): Omit<AdminHandlers, keyof ReturnType<typeof actionHandlers>> {
  const { parts, server, access, status } = options;
  const { config, mirror } = parts;
  const prepull = new PrepullList(config, server.lastPulls, options);
  return {
    session: async ({ who }) => ({
      name: who.name,
      by: who.by,
      rights: who.rights,
      token: access.token(who),
    }),
    overview: () => overview.document(),
    status,
    fills: async ({ query }) => fills.page(await live.downloads(), query, digest => isStored(parts, digest)),
    queue: async () => queueDocument(mirror.queue, config.pulls),
    partial: ({ query }) => partialsDocument(parts, server, query),
    backoffs: async ({ query }) => backoffsDocument(mirror.failures, query),
    uploads: ({ query }) => uploadsDocument(parts, query),
    images: ({ query }) => imagesDocument(parts, query),
    inspect: async ({ query: { reference } }) => {
      const found = await inspectImage(parts, reference).catch((error: unknown) => {
        throw error instanceof NotStored ? new AdminProblem('not-found', error.message) : error;
      });
      return inspectDocument(reference, found);
    },
    upstreams: async () => ({ entries: upstreamDocuments(parts, await live.reports()) }),
    replicas: async () => ({ entries: server.replicas }),
    tenants: ({ query }) => tenantsPage(parts, query),
    explain: async ({ query: { reference, tenant } }) => {
      const explanation = await parts.explain(reference, tenant);
      if (explanation === undefined) {
        throw new AdminProblem('not-found', `there is no tenant named ${tenant}`);
      }
      return explanation;
    },
    refusals: async ({ query }) => refusals.page(query),
    prepull: ({ query }) => prepull.page(query),
    bundles: ({ query }) => bundlesDocument(parts, query),
    notifications: () => notificationsDocument({ parts, server }),
    upkeep: () => upkeepDocument(parts, options.next),
    audit: ({ query }) => trail.page(query),
    tasks: async () => ({ entries: tasks.list() }),
    task: async ({ id }) => tasks.read(id),
    cancel: ({ id }) => tasks.cancel(id),
  };
}

async function isStored({ metadata }: AdminParts, digest: string): Promise<boolean> {
  return isDigest(digest) && (await metadata.statBlob(digest)) !== undefined;
}

interface Made {
  readonly live: LiveView;
  readonly fills: FillList;
  readonly refusals: Refusals;
  readonly tasks: AdminTasks;
  readonly trail: AuditTrail;
  readonly overview: Overview;
}
