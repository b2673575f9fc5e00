import { z } from '../../config/fields.ts';
import { arrayOf, time } from './parts.ts';

/** One of several servers that share an index and a bucket. */
const replicaSchema = z.object({
  address: z.string().describe('Its cluster.advertise'),
  isOwn: z.boolean().describe('Whether it is the one that answers'),
  state: z
    .enum(['reached', 'unreachable', 'unknown', 'gone'])
    .describe(
      'Whether the one that answers can ask it for what only it has; unknown at the beginning. gone: it disappeared without ' +
        'shutting down, and is listed for an hour, or until another one takes its place',
    ),
  since: time.describe('When this state began; for one that is gone, when it was last seen alive'),
  reason: z
    .enum(['unreachable', 'key', 'another'])
    .nullable()
    .describe('Why not: no connection, another key or certificate, or something else answers at its address'),
  started: time.nullable().describe('null if it has not said so'),
  downloads: arrayOf(z.string()).describe(
    'Digests of what it downloads from upstreams, as it said in the last seconds: the first hundred',
  ),
});
export type ReplicaDocument = z.output<typeof replicaSchema>;

/** All replicas of this registry that are known. */
export const replicasSchema = z.object({
  entries: arrayOf(replicaSchema).describe('This one first; none without cluster'),
});
export type ReplicasDocument = z.output<typeof replicasSchema>;
