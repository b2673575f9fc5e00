import { z } from '../config/fields.ts';
import {
  gcBody,
  pinSchema,
  pullBody,
  referenceBody,
  refreshSchema,
  removeBody,
  revokeBody,
  revokedSchema,
  rotateBody,
  rotatedSchema,
  scrubBody,
  tenantAddBody,
  tenantAddedSchema,
  tenantAdoptedSchema,
  tenantBody,
} from './documents/actions.ts';
import { auditQuery, auditSchema } from './documents/audit.ts';
import { backoffsSchema } from './documents/backoffs.ts';
import { bundlesSchema } from './documents/bundles.ts';
import { explainQuery, explainSchema } from './documents/explain.ts';
import { fillsSchema } from './documents/fills.ts';
import { imagesQuery, imagesSchema, inspectSchema } from './documents/images.ts';
import { overviewSchema } from './documents/overview.ts';
import {
  endpointBody,
  notificationsSchema,
  skipBody,
  skippedSchema,
  testedSchema,
} from './documents/notifications.ts';
import { pageQuery, typed } from './documents/parts.ts';
import { prepullQuery, prepullSchema } from './documents/prepull.ts';
import { queueSchema } from './documents/queue.ts';
import { refusalsQuery, refusalsSchema } from './documents/refusals.ts';
import { replicasSchema } from './documents/replicas.ts';
import { type AdminRights, sessionSchema } from './documents/session.ts';
import { partialsSchema, statusSchema } from './documents/status.ts';
import { taskSchema, tasksSchema } from './documents/tasks.ts';
import { tenantsQuery, tenantsSchema } from './documents/tenants.ts';
import { upkeepSchema } from './documents/upkeep.ts';
import { uploadsSchema } from './documents/uploads.ts';
import { upstreamsSchema } from './documents/upstreams.ts';

/** Where all of it lives. */
export const ADMIN_PATH = '/admin/v1';

/** A request that the API answers, and how. What a member lacks is not taken or not sent. */
export interface AdminOperation {
  readonly method: 'GET' | 'POST' | 'DELETE';
  /** Below `ADMIN_PATH`; `{id}` stands for one component. */
  readonly path: string;
  readonly summary: string;
  readonly rights: AdminRights;
  readonly query?: z.ZodObject;
  readonly body?: z.ZodObject;
  /** Of a JSON document. */
  readonly answer: z.ZodType;
  /** Default: 200. */
  readonly status?: 200 | 202;
}

const read = { method: 'GET', rights: 'read' } as const;
const change = { method: 'POST', rights: 'full' } as const;
const begin = { ...change, answer: taskSchema, status: 202 } as const;

/** Everything but the stream of events, the description itself, and what is wrong with a request. */
export const ADMIN_OPERATIONS = {
  session: { ...read, path: '/session', summary: 'Who asks, and what he may do', answer: sessionSchema },
  overview: {
    ...read,
    path: '/overview',
    summary: 'What is wrong, what was saved, and what is in progress',
    answer: overviewSchema,
  },
  status: { ...read, path: '/status', summary: 'As entrepot status', answer: statusSchema },
  fills: { ...read, path: '/fills', summary: 'Downloads in progress', query: pageQuery, answer: fillsSchema },
  queue: { ...read, path: '/queue', summary: 'How many downloads run and wait', answer: queueSchema },
  partial: {
    ...read,
    path: '/partial',
    summary: 'Layers of which some is on the disk, and which nobody downloads as a whole',
    query: pageQuery,
    answer: partialsSchema,
  },
  backoffs: {
    ...read,
    path: '/backoffs',
    summary: 'Failures of upstreams that are answered without asking again',
    query: pageQuery,
    answer: backoffsSchema,
  },
  uploads: {
    ...read,
    path: '/uploads',
    summary: 'Unfinished pushes',
    query: pageQuery,
    answer: uploadsSchema,
  },
  images: {
    ...read,
    path: '/images',
    summary: 'What is stored, as entrepot images',
    query: imagesQuery,
    answer: imagesSchema,
  },
  inspect: {
    ...read,
    path: '/inspect',
    summary: 'The parts of an image, as entrepot inspect',
    query: z.object({ reference: typed }),
    answer: inspectSchema,
  },
  upstreams: { ...read, path: '/upstreams', summary: 'Health, budgets and logins', answer: upstreamsSchema },
  replicas: {
    ...read,
    path: '/replicas',
    summary: 'Other servers of the same registry: whether they are reached, and what they download',
    answer: replicasSchema,
  },
  tenants: {
    ...read,
    path: '/tenants',
    summary: 'Tenants with the state of their Secrets, as entrepot tenants',
    query: tenantsQuery,
    answer: tenantsSchema,
  },
  explain: {
    ...read,
    path: '/explain',
    summary: 'Whether a pull would succeed, and why, as entrepot explain',
    query: explainQuery,
    answer: explainSchema,
  },
  refusals: {
    ...read,
    path: '/refusals',
    summary: 'What clients were refused lately, and why',
    query: refusalsQuery,
    answer: refusalsSchema,
  },
  prepull: {
    ...read,
    path: '/prepull',
    summary: 'The images that are pulled ahead, and what is missing of them',
    query: prepullQuery,
    answer: prepullSchema,
  },
  bundles: {
    ...read,
    path: '/bundles',
    summary: 'Bundles that were made by entrepot export, and taken in by entrepot import',
    query: pageQuery,
    answer: bundlesSchema,
  },
  notifications: {
    ...read,
    path: '/notifications',
    summary: 'What waits for the endpoints of notifications, and why',
    answer: notificationsSchema,
  },
  upkeep: { ...read, path: '/upkeep', summary: 'Garbage, eviction, scrub and damage', answer: upkeepSchema },
  audit: {
    ...read,
    path: '/audit',
    summary: 'The end of the audit log',
    query: auditQuery,
    answer: auditSchema,
  },
  tasks: { ...read, path: '/tasks', summary: 'What was begun here and takes long', answer: tasksSchema },
  task: { ...read, path: '/tasks/{id}', summary: 'One of them', answer: taskSchema },
  cancel: {
    method: 'DELETE',
    rights: 'full',
    path: '/tasks/{id}',
    summary: 'Cancel a task; what it has done stays done',
    answer: taskSchema,
  },
  pull: { ...begin, path: '/actions/pull', summary: 'As entrepot pull', body: pullBody },
  refresh: {
    ...change,
    path: '/actions/refresh',
    summary: 'Ask upstream now, and forget remembered failures',
    body: referenceBody,
    answer: refreshSchema,
  },
  pin: {
    ...change,
    path: '/actions/pin',
    summary: 'Protect an image from eviction',
    body: referenceBody,
    answer: pinSchema,
  },
  unpin: {
    ...change,
    path: '/actions/unpin',
    summary: 'Allow it to be evicted again',
    body: referenceBody,
    answer: pinSchema,
  },
  rm: { ...begin, path: '/actions/rm', summary: 'Remove a tag, a digest or a repository', body: removeBody },
  gc: { ...begin, path: '/actions/gc', summary: 'Collect garbage, and evict', body: gcBody },
  scrub: { ...begin, path: '/actions/scrub', summary: 'Verify all stored content', body: scrubBody },
  notificationTest: {
    ...change,
    path: '/actions/notification-test',
    summary: 'Send a test event to an endpoint, as entrepot notify',
    body: endpointBody,
    answer: testedSchema,
  },
  notificationSkip: {
    ...change,
    path: '/actions/notification-skip',
    summary: 'Do not send an event to an endpoint that refuses it',
    body: skipBody,
    answer: skippedSchema,
  },
  tenantAdd: {
    ...change,
    path: '/actions/tenant-add',
    summary: 'Add a tenant',
    body: tenantAddBody,
    answer: tenantAddedSchema,
  },
  tenantRotate: {
    ...change,
    path: '/actions/tenant-rotate',
    summary: 'Issue a login, and end the earlier ones after a while',
    body: rotateBody,
    answer: rotatedSchema,
  },
  tenantRevoke: {
    ...change,
    path: '/actions/tenant-revoke',
    summary: 'End logins that were issued to a tenant',
    body: revokeBody,
    answer: revokedSchema,
  },
  tenantAdopt: {
    ...change,
    path: '/actions/tenant-adopt',
    summary: 'Bind a tenant to a namespace that was created again',
    body: tenantBody,
    answer: tenantAdoptedSchema,
  },
} as const satisfies Record<string, AdminOperation>;

export type AdminOperationId = keyof typeof ADMIN_OPERATIONS;
type Operations = typeof ADMIN_OPERATIONS;

/** The answer to an operation. */
export type AdminAnswer<Id extends AdminOperationId> = z.output<Operations[Id]['answer']>;
/** The query of an operation, parsed. */
export type AdminQuery<Id extends AdminOperationId> = Operations[Id] extends {
  readonly query: infer Query extends z.ZodType;
}
  ? z.output<Query>
  : undefined;
/** The body of an operation, parsed. */
export type AdminBody<Id extends AdminOperationId> = Operations[Id] extends {
  readonly body: infer Body extends z.ZodType;
}
  ? z.output<Body>
  : undefined;
