import { type Outbox, senderLease } from '../metadata/outbox.ts';
import type { AdminParts, AdminServer } from './admin-parts.ts';
import { AdminProblem } from './admin-problem.ts';
import type {
  EndpointDocument,
  NotificationsDocument,
  SkippedDocument,
  TestedDocument,
} from './documents/notifications.ts';
import type { AdminBody } from './operations.ts';
import { optionalTime, timeOf } from './status.ts';

/** Events of an endpoint that are shown: as many as one request may be about. */
const SHOWN_EVENTS = 20;
/** Where an event is looked for by its id: among those that the next requests would have. */
const SEARCHED_EVENTS = 1_000;

interface NotificationNeeds {
  readonly parts: Pick<AdminParts, 'config' | 'metadata'>;
  readonly server: Pick<AdminServer, 'delivery'>;
}

/** What waits for each endpoint, and why. */
export async function notificationsDocument({
  parts: { config, metadata },
  server: { delivery },
}: NotificationNeeds): Promise<NotificationsDocument> {
  const entries: EndpointDocument[] = [];
  const { parseStoredEvent, subjectOf } = await events();
  for (const { name } of config.notifications.endpoints) {
    const outbox = requireOutbox(metadata);
    const { waiting, oldestAtMs, dropped } = await outbox.readState(name);
    const first = (await outbox.listNext(name, SHOWN_EVENTS)).map(({ body }) => parseStoredEvent(body));
    const problem = delivery.problemOf(name);
    entries.push({
      name,
      waiting,
      oldest: optionalTime(oldestAtMs),
      dropped,
      reason: problem?.reason ?? null,
      refused: problem?.refused ?? null,
      sender: delivery.isSending(name)
        ? null
        : ((await metadata.readLease(senderLease(name)))?.holder ?? null),
      first: first.map(event => ({
        id: event.id,
        event: event.kind,
        subject: subjectOf(event) ?? null,
        at: timeOf(event.atMs),
      })),
    });
  }
  return { entries };
}

/**
 * Removes one event that waits for an endpoint, or all that wait now. The endpoint may get it nevertheless if it is being
 * sent. Throws AdminProblem if there is no such endpoint or event.
 */
export async function skipEvents(
  { parts: { config, metadata }, server: { delivery } }: NotificationNeeds,
  { endpoint, event }: AdminBody<'notificationSkip'>,
): Promise<SkippedDocument> {
  if (!config.notifications.endpoints.some(({ name }) => name === endpoint))
    throw new AdminProblem('not-found', `notifications.endpoints has no ${endpoint}`);
  const outbox = requireOutbox(metadata);
  const skipped =
    event === 'all' ? await skipAll(outbox, endpoint) : await skipOne(outbox, { endpoint, id: event });
  delivery.hurry(endpoint);
  return { endpoint, skipped };
}

/** How an endpoint has answered a test event: what it accepted, or why it did not. */
export type EndpointTest = Pick<TestedDocument, 'id' | 'status' | 'ms'> | { readonly failure: string };

/** Sends a test event. `test` returns `undefined` for an unknown endpoint. Throws AdminProblem unless it is accepted. */
export async function testNotifications(
  test: (endpoint: string) => Promise<EndpointTest | undefined>,
  endpoint: string,
): Promise<TestedDocument> {
  const tested = await test(endpoint);
  if (tested === undefined) throw new AdminProblem('not-found', `notifications.endpoints has no ${endpoint}`);
  if ('failure' in tested) throw new AdminProblem('refused', `${endpoint}: ${tested.failure}`);
  return { endpoint, ...tested };
}

async function skipOne(
  outbox: Outbox,
  { endpoint, id }: { readonly endpoint: string; readonly id: string },
): Promise<number> {
  const { parseStoredEvent } = await events();
  const waiting = await outbox.listNext(endpoint, SEARCHED_EVENTS);
  const found = waiting.find(({ body }) => parseStoredEvent(body).id === id);
  const skipped =
    found === undefined ? 0 : await outbox.skip(endpoint, { from: found.position, to: found.position });
  if (skipped === 0)
    throw new AdminProblem(
      'not-found',
      `no event ${id} is among the next ${SEARCHED_EVENTS} for ${endpoint}`,
    );
  return skipped;
}

/** In steps, between which others write. Those that come meanwhile may be among them, but not more than waited. */
async function skipAll(outbox: Outbox, endpoint: string): Promise<number> {
  const { waiting } = await outbox.readState(endpoint);
  const everything = { from: 0, to: Number.MAX_SAFE_INTEGER };
  let skipped = 0;
  for (let some = -1; some !== 0 && skipped < waiting; skipped += some) {
    some = await outbox.skip(endpoint, everything);
  }
  return skipped;
}

/** Loaded only for those who have endpoints. */
function events() {
  return import('../events/stored-event.ts');
}

function requireOutbox({ outbox }: AdminParts['metadata']): Outbox {
  if (outbox === undefined) throw new AdminProblem('unavailable', 'the index of this store has no outbox');
  return outbox;
}
