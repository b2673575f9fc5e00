import type {
  EndpointDocument,
  NotificationsDocument,
  SkippedDocument,
} from '../admin/documents/notifications.ts';
import type { Config, EndpointConfig } from '../config/config.ts';
import { DeliveryFailed } from '../events/endpoint-client.ts';
import { columnsText, countText, timeText } from './columns.ts';
import {
  printResult,
  type Command,
  CommandError,
  CONFIG_OPTION,
  EXIT,
  type ExitCode,
  type Input,
  type Io,
  jsonOption,
  textOption,
} from './command.ts';
import { askAdmin, changeByAdmin } from './running-server.ts';
import { configInForce } from './store-config.ts';

/** `entrepot notify`: tries an endpoint of notifications, shows what waits for it, and skips what it refuses. */
export const notify: Command = {
  name: 'notify',
  summary: 'send a test event to an endpoint of notifications, or see to events that wait for it',
  description:
    'Sends one event of the kind test, in the format and with the headers and the signature that the configuration says, ' +
    'and shows how the endpoint answers. Events that wait for the endpoint are not sent with it. Without --config and ' +
    '$ENTREPOT_CONFIG it reads the configuration of the server that the same user runs on this machine, if any. ' +
    '--waiting and --skip send no test: they ask the running server.',
  arguments: [{ name: '<endpoint>', description: 'its name in notifications.endpoints' }],
  options: [
    { flags: '--waiting', description: 'show which events are sent next, and why none is' },
    {
      flags: '--skip <event>',
      description: 'never send the event with this id, or all that wait now; those behind it follow at once',
    },
    jsonOption(
      'endpoint, id, status, ms; with --waiting: name, waiting, oldest, dropped, reason, refused, sender, first (id, event, subject, at); ' +
        'with --skip: endpoint, skipped',
    ),
    CONFIG_OPTION,
  ],
  examples: [
    ['entrepot notify ci', 'exit code 0 if the endpoint accepts the event'],
    ['entrepot notify ci --waiting', 'what waits, and which event is refused'],
    ['entrepot notify ci --skip 0d5a6b0e-3c0b-4b5e-9c57-0f3a3c1f7f10', 'continue without this event'],
    ['entrepot notify ci --skip all', 'drop everything that waits for ci'],
  ],
  run: async (input, io) => {
    const [name = ''] = input.arguments;
    const skip = textOption(input, 'skip');
    const isWaiting = input.options['waiting'] === true;
    if (skip !== undefined && isWaiting)
      throw new CommandError('--waiting and --skip are mutually exclusive', EXIT.usage);
    const config = await configInForce(input, io);
    const { endpoints } = config.notifications;
    const endpoint = endpoints.find(each => each.name === name);
    if (endpoint === undefined) {
      const known = endpoints.map(each => each.name).join(', ') || 'none';
      throw new CommandError(`notifications.endpoints has no ${name} (configured: ${known})`, EXIT.usage);
    }
    if (isWaiting) return showWaiting(input, io, { config, name });
    if (skip !== undefined) return skipEvent(input, io, { config, name, event: skip });
    return sendTest(input, io, { config, endpoint });
  },
};

async function sendTest(
  input: Input,
  io: Io,
  { config, endpoint }: { readonly config: Config; readonly endpoint: EndpointConfig },
): Promise<ExitCode> {
  const { name } = endpoint;
  const { testEndpoint } = await import('../compose/event-delivery.ts');
  try {
    const { id, status, ms } = await testEndpoint(config, endpoint);
    printResult(
      input,
      io,
      { endpoint: name, id, status, ms },
      `${name}: accepted with ${status} in ${ms} ms\n`,
    );
  } catch (error) {
    if (error instanceof DeliveryFailed) throw new CommandError(`${name}: ${error.message}`);
    throw error;
  }
  return EXIT.done;
}

async function showWaiting(
  input: Input,
  io: Io,
  { config, name }: { readonly config: Config; readonly name: string },
): Promise<ExitCode> {
  const { path } = config.storage;
  const document = await askAdmin<NotificationsDocument>(path, '/notifications');
  const found = document?.entries.find(each => each.name === name);
  if (found === undefined) throw noServer(path, document !== undefined, name);
  printResult(input, io, found, waitingText(found));
  return EXIT.done;
}

async function skipEvent(
  input: Input,
  io: Io,
  { config, name, event }: { readonly config: Config; readonly name: string; readonly event: string },
): Promise<ExitCode> {
  const { path } = config.storage;
  const body = { endpoint: name, event };
  const document = await changeByAdmin<SkippedDocument>(path, '/actions/notification-skip', body);
  if (document === undefined) throw noServer(path, false, name);
  printResult(input, io, document, `${name}: ${countText(document.skipped, 'event')} skipped\n`);
  return EXIT.done;
}

function noServer(path: string, isThere: boolean, name: string): CommandError {
  return new CommandError(
    isThere
      ? `the running server does not know ${name} yet: send it SIGHUP`
      : `no server runs on the store in ${path}, and so nothing is sent`,
  );
}

/** The text for people: the event that holds up the others is marked. */
export function waitingText(endpoint: EndpointDocument, nowMs = Date.now()): string {
  const { name, waiting, oldest, dropped, reason, refused, sender, first } = endpoint;
  const since = oldest === null ? '' : `, the oldest of ${timeText(Date.parse(oldest), nowMs)}`;
  const lost = dropped === 0 ? '' : `; ${dropped} were dropped`;
  const head = `${name}: ${countText(waiting, 'event')} waiting${since}${lost}\n`;
  const why = reason === null ? '' : `problem: ${reason}\n`;
  const who = sender === null ? '' : `sent by ${sender}: its log says whether ${name} accepts them\n`;
  const rows = first.map(({ id, event, subject, at }) => [
    event,
    subject ?? '-',
    timeText(Date.parse(at), nowMs),
    id === refused ? `${id} (refused)` : id,
  ]);
  const table = rows.length === 0 ? '' : columnsText(['NEXT', 'ABOUT', 'SINCE', 'ID'], rows);
  return `${head}${why}${who}${table}`;
}
