import { z } from '../../config/fields.ts';
import { firstBytesSchema } from './first-bytes.ts';
import { bytes, amount, arrayOf, pageSchema, time } from './parts.ts';
import { replicasSchema } from './replicas.ts';

/** A download in progress. */
export const downloadSchema = z.object({
  kind: z
    .enum(['whole', 'ranges', 'streamed'])
    .describe(
      'A layer, ranges that clients request of one, or a layer for which there is no room: it is only sent to clients',
    ),
  repository: z.string(),
  digest: z.string(),
  state: z.enum(['queued', 'downloading']),
  bytes: bytes.describe('How much is there; of ranges, how much of what was requested'),
  size: bytes.nullable().describe('How much it will be: the whole layer, or the ranges that were requested'),
  readers: amount.describe('Clients that currently read it'),
  requesters: arrayOf(z.string()).describe('Tenants; `anonymous`; `operator` for commands of the operator'),
  started: time,
  holder: z
    .string()
    .nullable()
    .describe('The other process on this store that downloads it, if this one only follows'),
});
export type DownloadStatus = z.output<typeof downloadSchema>;

/** A download in another process, of which only what is on the disk is known. */
const foreignDownloadSchema = z.object({
  digest: z.string(),
  bytes,
  upstream: z.string().nullable().describe('null if it is not configured here'),
  holder: z.string().describe('Such as `process 1234 on node-1`'),
});
export type ForeignDownloadStatus = z.output<typeof foreignDownloadSchema>;

/** A layer of which some is on the disk, and which nobody downloads as a whole. */
const partialSchema = z.object({
  kind: z
    .enum(['ranges', 'download'])
    .describe('Ranges that clients have requested, or a download that was interrupted and can continue'),
  digest: z.string(),
  repository: z
    .string()
    .nullable()
    .describe('While it is not used, one whose stored manifest names it; null if none does'),
  bytes,
  size: bytes.nullable().describe('Of the whole layer; null like `repository`'),
  readers: amount.describe('Clients that currently read it'),
  lastUsed: time,
});
export type PartialStatus = z.output<typeof partialSchema>;

/** Of the first hundred that are found. */
export const partialsSchema = pageSchema(partialSchema);
export type PartialsDocument = z.output<typeof partialsSchema>;

/** Bytes sent and fetched since some time, and their difference. */
export const savedSchema = z.object({
  sentBytes: bytes,
  fetchedBytes: bytes,
  savedBytes: bytes.describe('At least 0: images that were pulled ahead may not have been requested yet'),
  since: time,
});
export type SavedStatus = z.output<typeof savedSchema>;

/** Content that eviction would remove. */
const nextSchema = z.object({
  kind: z.enum(['blob', 'manifest']),
  digest: z.string(),
  size: bytes,
  repositories: arrayOf(z.string()).describe('Some of the repositories that it belongs to'),
});
export type NextStatus = z.output<typeof nextSchema>;

/** A bucket, and whether this server can use it. */
const bucketSchema = z.object({
  name: z.string(),
  trouble: z
    .object({ kind: z.enum(['noCredentials', 'unreachable', 'busy', 'refused', 'missing']), since: time })
    .nullable(),
});
export type BucketStatus = z.output<typeof bucketSchema>;

/** How full the store and its disk are. */
export const storeSchema = z.object({
  path: z.string(),
  heldBytes: bytes,
  unfinishedBytes: bytes,
  maxBytes: bytes.nullable(),
  freeBytes: bytes,
  minFreeBytes: bytes,
  bucket: bucketSchema.nullable().describe('Where blobs are, if they are in a bucket'),
  local: z
    .object({ copies: amount, bytes, maxBytes: bytes })
    .nullable()
    .describe('What of a bucket is also kept here; null if nothing is'),
  damaged: amount,
  next: arrayOf(nextSchema)
    .nullable()
    .describe('What eviction would remove first; null if it is not found out yet, or the index is lost'),
  indexLost: z.boolean().describe('Whether the index that this server has open was removed or replaced'),
});
export type StoreStatus = z.output<typeof storeSchema>;

/** How an upstream has answered. */
const upstreamStatusSchema = z.object({
  name: z.string(),
  url: z.string(),
  lastAnswer: time.nullable(),
  lastError: z.object({ at: time, reason: z.string(), repository: z.string() }).nullable(),
  budgetRemaining: amount.nullable().describe('How many pulls it still allows, if it says so'),
  firstBytes: firstBytesSchema.describe('How long clients waited for its content in the last hour'),
});
export type UpstreamStatus = z.output<typeof upstreamStatusSchema>;

/** A Secret that cannot be read or was refused. */
const secretStatusSchema = z.object({
  tenant: z.string().nullable().describe("null for the node's, which all tenants share"),
  secret: z.string(),
  source: z.enum(['file', 'folder', 'kubernetes', 'node', 'issued', 'plugin']),
  state: z.enum(['loaded', 'malformed', 'missing', 'unread']),
  reason: z.string().nullable(),
  lastRefused: time.nullable(),
  lastUsed: time.nullable(),
});
export type SecretStatus = z.output<typeof secretStatusSchema>;

/** The state of a server: what it does, what it saved, how full its store is, and its problems. */
export const statusSchema = z.object({
  pid: z.int(),
  servingPids: arrayOf(z.int()).describe('The processes that serve its clients, if it does not do so itself'),
  started: time,
  processes: amount.describe('Live processes on the store, including this one and commands'),
  problems: arrayOf(z.string()).describe(
    'Problems that do not stop it from serving: as after the `ok` of /readyz',
  ),
  downloads: arrayOf(downloadSchema),
  downloadsElsewhere: arrayOf(foreignDownloadSchema).describe(
    'Downloads of other processes on the store, such as `entrepot pull`: the first hundred',
  ),
  partial: arrayOf(partialSchema).describe(
    'Layers of which some is on the disk, and which nobody downloads as a whole: the first hundred',
  ),
  saved: z.object({ sinceStart: savedSchema, inAll: savedSchema }),
  store: storeSchema,
  upstreams: arrayOf(upstreamStatusSchema),
  replicas: replicasSchema.shape.entries,
  secrets: arrayOf(secretStatusSchema).describe('Only those with an error'),
});
export type StatusDocument = z.output<typeof statusSchema>;
