import { z } from '../../config/fields.ts';
import { fillSchema } from './fills.ts';
import { daySchema, overviewSchema } from './overview.ts';
import { amount, arrayOf } from './parts.ts';
import { queueSchema } from './queue.ts';
import { refusalSchema } from './refusals.ts';
import { replicasSchema } from './replicas.ts';
import { taskSchema } from './tasks.ts';
import { upstreamSchema } from './upstreams.ts';

/**
 * What `GET /admin/v1/events` sends, by the name of the event. A client that begins, or that was away for longer than
 * is remembered, gets `reset` first: it then asks for what it shows. Everything later says what has changed since.
 */
export const eventSchemas = {
  reset: z.object({}).describe('Ask for everything that you show: what was missed is not known'),
  fills: z
    .object({
      changed: arrayOf(fillSchema),
      gone: arrayOf(
        z.object({ id: z.string(), stored: z.boolean().describe('Whether its blob is stored now') }),
      ).describe('Those that have ended'),
      total: amount,
      more: z.boolean().describe('More have changed than are listed: ask for the list'),
    })
    .describe('Downloads that began, advanced or ended'),
  queue: queueSchema.describe('Its new state'),
  replicas: replicasSchema.describe('Their new state'),
  overview: overviewSchema
    .pick({
      ready: true,
      problems: true,
      saved: true,
      store: true,
      now: true,
      firstBytes: true,
      canLogIn: true,
      push: true,
    })
    .extend({ today: daySchema.nullable().describe('The last of its days, perhaps a new one') })
    .describe('Its new state'),
  backoffs: z.object({ total: amount }).describe('Failures of upstreams were remembered or forgotten'),
  refusals: z
    .object({ changed: arrayOf(refusalSchema), more: z.boolean() })
    .describe('Something was refused: the latest of them'),
  upstreams: z
    .object({ changed: arrayOf(upstreamSchema) })
    .describe('Upstreams that answered otherwise than before'),
  task: taskSchema.describe('A task began, advanced or ended'),
  images: z.object({}).describe('Something was stored, removed or pinned'),
  tenants: z.object({}).describe('Tenants or their Secrets have changed'),
  notifications: z
    .object({})
    .describe('An endpoint of notifications fails, or accepts events again, or another process sends to it'),
  audit: z.object({}).describe('Something was changed by this API'),
} as const;

export type EventName = keyof typeof eventSchemas;
export type EventData<Name extends EventName> = z.output<(typeof eventSchemas)[Name]>;
