import { sizeText } from '../lib/units.ts';
import type { ReplicaDocument } from '../admin/documents/replicas.ts';
import type {
  DownloadStatus,
  ForeignDownloadStatus,
  SavedStatus,
  SecretStatus,
  StatusDocument,
  StoreStatus,
  UpstreamStatus,
} from '../admin/documents/status.ts';
import type { ServerDocument } from '../compose/server.ts';
import { columnsText, countText, timeText } from './columns.ts';
import { printResult, type Command, CommandError, CONFIG_OPTION, EXIT, jsonOption } from './command.ts';
import { askAdmin, serversOn } from './running-server.ts';
import { storeConfig } from './store-config.ts';

/** `entrepot status`: shows what the server is doing, and its problems. */
export const status: Command = {
  name: 'status',
  summary: 'show what the running server is doing, what it saved, and any problems',
  description:
    'Asks the running server of this store: what is being downloaded, how far it is and for whom (of other processes on ' +
    'the store, such as `entrepot pull`, only how much is on the disk); how much mirrored content was sent to clients ' +
    'and how much of it had to be fetched, since the start and in total (a crash may lose a minute of it); how full the ' +
    'store is, and what would be evicted next; when each upstream last answered and failed, and how long half of the clients waited for the first byte of its content in the ' +
    'last hour, by cache result; which replicas there are, and whether they can be reached; and which Secrets cannot be ' +
    'read or were refused. It lists all servers on the store. Only the user who runs the server, and root, can use it.',
  options: [
    jsonOption(
      'pid, servingPids, started, processes, servers (pid, servingPids, host, addresses, started), problems, downloads (kind: whole, ranges, streamed), downloadsElsewhere ' +
        '(digest, bytes, upstream, holder), partial (kind: ranges, download; digest, repository, bytes, size, readers, lastUsed), saved (sinceStart, inAll: sentBytes, fetchedBytes, savedBytes, since), ' +
        'store, upstreams (lastError: at, reason, repository; firstBytes: outcome, count, p50Ms, p90Ms, p99Ms), ' +
        'replicas (address, isOwn, state, since, reason, started, downloads), secrets',
    ),
    CONFIG_OPTION,
  ],
  examples: [
    ['entrepot status', 'its state and activity'],
    ['watch entrepot status', 'continuously'],
    ['entrepot status --json | jq .saved.inAll.savedBytes', 'for programs'],
  ],
  run: async (input, io) => {
    const { storage } = await storeConfig(input, io);
    const own = await askAdmin<StatusDocument>(storage.path, '/status');
    if (own === undefined) {
      throw new CommandError(`no server answers for the store in ${storage.path}`);
    }
    const servers = (await serversOn(storage.path)).map(serverStatus);
    const document = { ...own, servers };
    printResult(input, io, document, statusText(document));
    return EXIT.done;
  },
};

/** A server on the store; members are `null` for an older version that does not report them. */
interface ServerStatus {
  readonly pid: number;
  /** As in `StatusDocument`. */
  readonly servingPids: readonly number[];
  readonly host: string | null;
  readonly addresses: readonly string[];
  readonly started: string | null;
}

/** The document of the newest server that answers, with a list of all servers. */
export interface StoreWideStatus extends StatusDocument {
  /** Newest first. */
  readonly servers: readonly ServerStatus[];
}

function serverStatus({ pid, servingPids = [], host, addresses, started }: ServerDocument): ServerStatus {
  return { pid, servingPids, host: host ?? null, addresses, started: started ?? null };
}

/** The text for people: problems first. */
export function statusText(document: StoreWideStatus, nowMs = Date.now()): string {
  const { pid, servingPids, started, problems, saved, store, upstreams, replicas, secrets } = document;
  const helpers = servingPids.length === 0 ? '' : `, serving with ${servingPids.join(', ')}`;
  const sections = [
    `running   since ${shownTime(started, nowMs)}, process ${pid}${helpers}\n${problems.map(line => `problem   ${line}\n`).join('')}`,
    `saved     ${savedText(saved.sinceStart)} since the start\n          ${savedText(saved.inAll)} since ${shownTime(saved.inAll.since, nowMs)}\n`,
    storeText(store),
    downloadsText(document),
    partialText(document, nowMs),
    upstreamsText(upstreams, nowMs),
    replicasText(replicas, nowMs),
    secretsText(secrets, nowMs),
    serversText(document, nowMs),
  ];
  return sections.filter(section => section !== '').join('\n');
}

/** Only if there are several: they share the store, and the rest of the text is about one of them. */
function serversText({ pid: asked, servers, processes, replicas }: StoreWideStatus, nowMs: number): string {
  const named =
    servers.length +
    servers.flatMap(({ servingPids }) => servingPids).length +
    replicas.filter(({ isOwn, state }) => !isOwn && state !== 'gone').length;
  const others = processes - named;
  const rest =
    others > 0 ? `${others} more on this store: commands, or servers that cannot be reached from here\n` : '';
  if (servers.length < 2) return rest;
  const rows = servers.map(({ pid, host, addresses, started }) => [
    addresses.join(', ') || 'starting',
    String(pid),
    host ?? '-',
    started === null ? '-' : shownTime(started, nowMs),
  ]);
  return `${columnsText(['SERVERS ON THIS STORE', 'PROCESS', 'HOST', 'SINCE'], rows)}process ${asked} reported the above\n${rest}`;
}

function savedText({ sentBytes, fetchedBytes, savedBytes }: SavedStatus): string {
  return `${sizeText(savedBytes)} (sent ${sizeText(sentBytes)}, fetched ${sizeText(fetchedBytes)})`;
}

function storeText({ path, heldBytes, unfinishedBytes, maxBytes, next, ...rest }: StoreStatus): string {
  const limit =
    maxBytes === null ? '' : ` of ${sizeText(maxBytes)} (${percent(heldBytes + unfinishedBytes, maxBytes)})`;
  const unfinished = unfinishedBytes === 0 ? '' : `, ${sizeText(unfinishedBytes)} unfinished`;
  const lines = [
    `store     ${path}: ${sizeText(heldBytes)} stored${unfinished}${limit}`,
    `disk      ${sizeText(rest.freeBytes)} free; ${sizeText(rest.minFreeBytes)} are kept free (storage.minFree)`,
    ...(rest.bucket === null
      ? []
      : [
          `bucket    ${rest.bucket.name}: ${rest.bucket.trouble === null ? 'in use' : rest.bucket.trouble.kind}`,
        ]),
    ...(rest.local === null
      ? []
      : [
          `local     ${sizeText(rest.local.bytes)} in ${countText(rest.local.copies, 'blob')} of the bucket are also here, of up ` +
            `to ${sizeText(rest.local.maxBytes)} (storage.maxLocalBytes)`,
        ]),
    ...(rest.damaged === 0 ? [] : [`damaged   ${rest.damaged}: see entrepot images`]),
    ...(next === null
      ? [`next to be evicted: ${rest.indexLost ? INDEX_LOST : 'not determined in time'}`]
      : []),
  ];
  const rows = (next ?? []).map(({ kind, digest, size, repositories }) => [
    repositories.join(', ') || '-',
    kind,
    sizeText(size),
    digest,
  ]);
  const table =
    rows.length === 0 ? '' : `\n${columnsText(['NEXT TO BE EVICTED', 'KIND', 'SIZE', 'DIGEST'], rows)}`;
  return `${lines.map(line => `${line}\n`).join('')}${table}`;
}

const INDEX_LOST = 'unknown, since the index is lost';

function downloadsText({ downloads, downloadsElsewhere }: StatusDocument): string {
  const rows = [...downloads.map(ownRow), ...downloadsElsewhere.map(foreignRow)];
  if (rows.length === 0) return 'nothing is being downloaded\n';
  return columnsText(['DOWNLOADING', 'PROGRESS', 'READERS', 'FOR', 'DIGEST'], rows);
}

function partialText({ partial }: StatusDocument, nowMs: number): string {
  if (partial.length === 0) return '';
  const rows = partial.map(({ kind, repository, bytes, size, readers, lastUsed, digest }) => [
    repository ?? '-',
    kind === 'ranges' ? 'ranges' : 'interrupted download',
    progressText(bytes, size),
    String(readers),
    shownTime(lastUsed, nowMs),
    digest,
  ]);
  const table = columnsText(['HELD IN PARTS', 'AS', 'HAVE', 'READERS', 'LAST USED', 'DIGEST'], rows);
  return `${table}evicted before anything else, ranges first, unless somebody reads them\n`;
}

function foreignRow({ upstream, bytes, digest, holder }: ForeignDownloadStatus): string[] {
  return [upstream ?? '-', `${sizeText(bytes)} by ${holder}`, '-', '-', digest];
}

function ownRow({
  kind,
  repository,
  digest,
  state,
  bytes,
  size,
  readers,
  requesters,
  holder,
}: DownloadStatus): string[] {
  return [
    DOWNLOAD_TEXT[kind](repository),
    state === 'queued' ? 'queued' : progressText(bytes, size) + (holder === null ? '' : ` by ${holder}`),
    String(readers),
    requesters.join(', '),
    digest,
  ];
}

const DOWNLOAD_TEXT: Readonly<Record<DownloadStatus['kind'], (repository: string) => string>> = {
  whole: repository => repository,
  ranges: repository => `ranges of ${repository}`,
  streamed: repository => `${repository}, not stored`,
};

function progressText(bytes: number, size: number | null): string {
  return `${sizeText(bytes)}${size === null ? '' : ` of ${sizeText(size)} (${percent(bytes, size)})`}`;
}

function upstreamsText(upstreams: readonly UpstreamStatus[], nowMs: number): string {
  const rows = upstreams.map(({ name, lastAnswer, lastError, budgetRemaining, firstBytes }) => [
    name,
    lastAnswer === null ? '-' : shownTime(lastAnswer, nowMs),
    budgetRemaining === null ? '-' : String(budgetRemaining),
    firstBytes.map(({ outcome, p50Ms }) => `${outcome} ${p50Ms} ms`).join(', ') || '-',
    lastError === null ? '-' : `${shownTime(lastError.at, nowMs)} ${nameFirst(lastError)}`,
  ]);
  return columnsText(['UPSTREAM', 'ANSWERED', 'BUDGET', 'FIRST BYTE', 'LAST ERROR'], rows);
}

/** Most reasons already begin with the repository. */
function nameFirst({ repository, reason }: { readonly repository: string; readonly reason: string }): string {
  return reason.startsWith(repository) ? reason : `${repository}: ${reason}`;
}

function replicasText(replicas: readonly ReplicaDocument[], nowMs: number): string {
  if (replicas.length === 0) return '';
  const rows = replicas.map(replica => [
    replica.address,
    replicaStateText(replica),
    shownTime(replica.since, nowMs),
    replica.started === null ? '-' : shownTime(replica.started, nowMs),
    replica.state === 'reached' ? String(replica.downloads.length) : '-',
  ]);
  return columnsText(['REPLICA', 'STATE', 'SINCE', 'STARTED', 'DOWNLOADS'], rows);
}

function replicaStateText({ isOwn, state, reason }: ReplicaDocument): string {
  if (isOwn) return 'this one';
  if (state === 'gone') return 'disappeared';
  return reason === null ? state : UNREACHABLE[reason];
}

const UNREACHABLE: Readonly<Record<NonNullable<ReplicaDocument['reason']>, string>> = {
  unreachable: 'unreachable',
  key: 'refuses our key or certificate',
  another: 'something else answers',
};

function secretsText(secrets: readonly SecretStatus[], nowMs: number): string {
  if (secrets.length === 0) return '';
  const rows = secrets.map(({ tenant, secret, source, state, reason, lastRefused, lastUsed }) => [
    tenant ?? '(all)',
    secret,
    source,
    state,
    lastUsed === null ? '-' : shownTime(lastUsed, nowMs),
    lastRefused === null ? '-' : shownTime(lastRefused, nowMs),
    reason ?? '',
  ]);
  return columnsText(['TENANT', 'SECRET', 'SOURCE', 'STATE', 'USED', 'REFUSED', 'ERROR'], rows);
}

function shownTime(text: string, nowMs: number): string {
  return timeText(Date.parse(text), nowMs);
}

function percent(part: number, whole: number): string {
  return whole === 0 ? '100 %' : `${Math.floor((part / whole) * 100)} %`;
}
