import { z } from '../../config/fields.ts';
import { bytes, amount, arrayOf, time } from './parts.ts';
import { firstBytesSchema } from './first-bytes.ts';
import { savedSchema } from './status.ts';

/** What was served and fetched on one day. */
export const daySchema = z.object({
  day: z.iso.date().describe('In UTC'),
  pulls: amount.describe('Manifests that clients were given by GET, hosted ones as well'),
  hits: amount.describe(
    'Answers with mirrored content that was stored, or was being fetched for another client',
  ),
  misses: amount.describe('Answers with mirrored content that was fetched for them'),
  sentBytes: bytes.describe('Mirrored content that was sent to clients'),
  fetchedBytes: bytes.describe('What was fetched from upstreams, including what was pulled ahead'),
});
export type DayDocument = z.output<typeof daySchema>;

/** What is wrong, what was saved, and what is in progress. */
export const overviewSchema = z.object({
  version: z.string(),
  pid: z.int(),
  servingPids: arrayOf(z.int()),
  started: time,
  ready: z.string().nullable().describe('Why the server cannot serve now; null if it can'),
  problems: arrayOf(
    z.object({
      kind: z.enum(['server', 'replica', 'secret', 'damage', 'backoff', 'prepull', 'budget']),
      text: z.string(),
    }),
  ).describe('What is wrong now, worst first'),
  saved: z.object({ sinceStart: savedSchema, inAll: savedSchema }),
  days: arrayOf(daySchema).describe(
    'The last days on which anything was served or fetched, oldest first; the last one is not over',
  ),
  store: z.object({
    heldBytes: bytes,
    unfinishedBytes: bytes,
    maxBytes: bytes.nullable(),
    freeBytes: bytes,
    minFreeBytes: bytes,
    blobs: amount,
    damaged: amount,
  }),
  now: z.object({ downloading: amount, queued: amount, readers: amount, backoffs: amount, tasks: amount }),
  firstBytes: firstBytesSchema.describe('How long clients waited for content in the last hour'),
  offline: z.boolean(),
  clientUrl: z
    .string()
    .describe(
      'How clients reach this registry, as far as it knows: server.externalUrl, the first of server.serverNames, or an address',
    ),
  addresses: arrayOf(z.string()).describe(
    'Where it listens for clients, such as 127.0.0.1:5000; addresses for one upstream are last',
  ),
  serverNames: arrayOf(z.string()).describe('server.serverNames'),
  upstreams: arrayOf(z.string()).describe('The registries that are mirrored, as image names begin'),
  hostedPrefixes: arrayOf(z.string()).describe(
    'hosted.prefixes: what the names of images that are hosted here begin with',
  ),
  canLogIn: z.boolean().describe('Whether logging in is possible'),
  push: z
    .object({
      prefix: z.string().describe('What the names of the images begin with'),
      needsLogin: z.boolean().describe('Whether only after logging in'),
    })
    .nullable()
    .describe('Where somebody may push; null if nobody may'),
});
export type OverviewDocument = z.output<typeof overviewSchema>;
