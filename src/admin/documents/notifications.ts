import { z } from '../../config/fields.ts';
import { amount, arrayOf, time, typed } from './parts.ts';

/** An event that waits for an endpoint. */
export const waitingEventSchema = z.object({
  id: z.string(),
  event: z.string().describe('As in `notifications.endpoints[].events`'),
  subject: z.string().nullable().describe('The image, the upstream, or the tenant with its Secret'),
  at: time,
});

/** A program that is told what happens. */
export const endpointSchema = z.object({
  name: z.string(),
  waiting: amount.describe('Events that it has not accepted yet'),
  oldest: time.nullable().describe('When the oldest of these happened'),
  dropped: amount.describe('Events that it will never get, since too many waited, or for too long'),
  reason: z
    .string()
    .nullable()
    .describe('Why nothing arrives now; null if it does, or if another process on the store sends'),
  sender: z
    .string()
    .nullable()
    .describe(
      'The other process that sends, and knows whether the endpoint accepts: such as `process 1234 on node-1`',
    ),
  refused: z.string().nullable().describe('The id of the event that it refuses, which holds up all others'),
  first: arrayOf(waitingEventSchema).describe('Those that are sent next: the first few'),
});
export type EndpointDocument = z.output<typeof endpointSchema>;

/** In the order of the configuration. */
export const notificationsSchema = z.object({ entries: arrayOf(endpointSchema) });
export type NotificationsDocument = z.output<typeof notificationsSchema>;

export const skipBody = z.strictObject({
  endpoint: typed.describe('Its name in notifications.endpoints'),
  event: typed.describe('The id of one of the events that are sent next, or `all` of those that wait'),
});

export const endpointBody = z.strictObject({
  endpoint: typed.describe('Its name in notifications.endpoints'),
});

/** How an endpoint has accepted a test event. */
export const testedSchema = z.object({
  endpoint: z.string(),
  id: z.string().describe('Of the event'),
  status: z.int().describe('Of the answer'),
  ms: amount.describe('How long the answer took'),
});
export type TestedDocument = z.output<typeof testedSchema>;

export const skippedSchema = z.object({
  endpoint: z.string(),
  skipped: amount.describe('How many events it will not get'),
});
export type SkippedDocument = z.output<typeof skippedSchema>;
