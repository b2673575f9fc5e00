import { hostname } from 'node:os';
import { heldBytesOf } from '../metadata/metadata-store.ts';
import { trafficSum, withToday, NO_TRAFFIC } from '../ops/transfer-totals.ts';
import type { AdminParts, AdminServer } from './admin-parts.ts';
import { allDownloads } from './downloads.ts';
import type { EventData } from './documents/events.ts';
import type { DayDocument, OverviewDocument } from './documents/overview.ts';
import type { UpstreamDocument } from './documents/upstreams.ts';
import { firstBytesDocument } from './first-bytes.ts';
import type { LiveView } from './live-view.ts';
import type { AdminTasks } from './tasks.ts';
import type { ServingReport } from './serving-report.ts';
import { savedOf, secretStatus } from './status.ts';
import { upstreamDocuments } from './upstreams.ts';

/** A year and a month, as far back as days are kept. */
const SHOWN_DAYS = 400;
/** Secrets with an error that are listed one by one. */
const SHOWN_SECRETS = 20;

export interface OverviewNeeds {
  readonly parts: AdminParts;
  readonly server: AdminServer;
  readonly live: LiveView;
  readonly tasks: Pick<AdminTasks, 'running'>;
}

/** For how long it is believed which Secrets have an error: of ten thousand tenants, all have to be looked at. */
const SECRETS_FOR_MS = 10_000;

/** What is wrong, what was saved, and what is in progress. */
export class Overview {
  readonly #needs: OverviewNeeds;
  #secrets: { readonly atMs: number; readonly problems: OverviewDocument['problems'] } | undefined;

  constructor(needs: OverviewNeeds) {
    this.#needs = needs;
  }

  async document(): Promise<OverviewDocument> {
    const { parts, server, live } = this.#needs;
    const { config } = parts;
    const { today: _today, ...now } = await this.now();
    const { inAll, reports } = await live.traffic();
    return {
      ...now,
      version: server.version,
      pid: process.pid,
      servingPids: server.servingPids,
      started: new Date(server.startedAtMs).toISOString(),
      days: daysOf(inAll, reports),
      offline: config.offline,
      clientUrl: clientUrl(config.server, server.addresses),
      addresses: server.addresses,
      serverNames: config.server.serverNames,
      upstreams: [...config.upstreams.keys()],
      hostedPrefixes: config.hosted.prefixes,
    };
  }

  /** What of it changes by itself. */
  async now(): Promise<EventData<'overview'>> {
    const { parts, server, live, tasks } = this.#needs;
    const { config, metadata, spool, mirror, access } = parts;
    const { inAll, reports } = await live.traffic();
    const downloads = allDownloads(reports);
    const queued = downloads.filter(({ state }) => state === 'queued').length;
    const totals = await metadata.readTotals();
    const { freeBytes, minFreeBytes } = await spool.space.look();
    const damaged = await metadata.countDamaged();
    return {
      ready: (await server.notReady()) ?? null,
      problems: [
        ...(await server.problems()).map(text => ({
          kind: server.replicaProblems.includes(text) ? ('replica' as const) : ('server' as const),
          text,
        })),
        ...(damaged === 0 ? [] : [{ kind: 'damage' as const, text: damageText(damaged) }]),
        ...upstreamDocuments(parts, reports).flatMap(problemsOfUpstream),
        ...this.#secretProblems(),
        ...prepullProblems(server.lastPulls.failing),
      ],
      saved: savedOf(inAll, reports, server.startedAtMs),
      today: daysOf(inAll, reports).at(-1) ?? null,
      store: {
        heldBytes: heldBytesOf(totals),
        unfinishedBytes: spool.unfinishedBytes,
        maxBytes: config.storage.maxBytes ?? null,
        freeBytes,
        minFreeBytes,
        blobs: totals.blobs,
        damaged,
      },
      now: {
        downloading: downloads.length - queued,
        queued,
        readers: downloads.reduce((sum, { readers }) => sum + readers, 0),
        backoffs: mirror.backoffs,
        tasks: tasks.running,
      },
      firstBytes: firstBytesDocument(reports),
      canLogIn: access.isOpen,
      push: (isHosting(config) && access.pushPlace) || null,
    };
  }

  #secretProblems(): OverviewDocument['problems'] {
    const nowMs = performance.now();
    if (this.#secrets === undefined || nowMs - this.#secrets.atMs > SECRETS_FOR_MS) {
      this.#secrets = { atMs: nowMs, problems: secretProblems(this.#needs.parts) };
    }
    return this.#secrets.problems;
  }
}

/** A client cannot use an address that stands for all of this machine's; it may be able to use the host name. */
function clientUrl(
  { externalUrl, serverNames, tls }: AdminParts['config']['server'],
  [address = 'registry.example:5000']: readonly string[],
): string {
  if (externalUrl !== undefined) return externalUrl;
  const host = serverNames[0] ?? address.replace(/^(?:0\.0\.0\.0|\[::\])(?=:)/, hostname());
  return `${tls === undefined ? 'http' : 'https'}://${host}`;
}

/** Whether hosted repositories can be reached: at a listener of an upstream they cannot. */
function isHosting({ server }: AdminParts['config']): boolean {
  return server.listen.some(({ upstream }) => upstream === undefined);
}

/** The days in order, with what serving processes have not saved yet; this process's own report is the first. */
function daysOf(
  { days }: Awaited<ReturnType<AdminServer['totals']['inAll']>>,
  [, ...others]: readonly Pick<ServingReport, 'unkept'>[],
): readonly DayDocument[] {
  const all = withToday(days, others.map(({ unkept }) => unkept).reduce(trafficSum, NO_TRAFFIC));
  const inOrder = [...all].sort(([one], [other]) => (one < other ? -1 : 1));
  return inOrder.slice(-SHOWN_DAYS).map(([day, traffic]) => ({ day, ...traffic }));
}

function damageText(damaged: number): string {
  return `${damaged} damaged: content of hosted repositories has to be pushed again, other content is fetched when it is requested`;
}

function problemsOfUpstream({
  name,
  state,
  lastError,
  budgets,
}: UpstreamDocument): OverviewDocument['problems'] {
  const limited = budgets.find(({ blockedUntil }) => blockedUntil !== null);
  const soon = budgets.find(({ exhaustedAt }) => exhaustedAt !== null);
  return [
    ...(state === 'failing' && lastError !== null
      ? [{ kind: 'backoff' as const, text: `${name} does not answer as it should: ${lastError.reason}` }]
      : []),
    ...(limited === undefined
      ? []
      : [{ kind: 'budget' as const, text: `${name} allows no request until ${limited.blockedUntil}` }]),
    ...(soon === undefined
      ? []
      : [
          {
            kind: 'budget' as const,
            text: `${name} will allow no pulls from ${soon.exhaustedAt} on, at the present rate`,
          },
        ]),
  ];
}

function prepullProblems(failing: number): OverviewDocument['problems'] {
  if (failing === 0) return [];
  const text = `${failing} of the images and lists of prepull could not be pulled or read, and will be retried`;
  return [{ kind: 'prepull', text }];
}

function secretProblems(parts: AdminParts): OverviewDocument['problems'] {
  const all = secretStatus(parts);
  const shown = all.slice(0, SHOWN_SECRETS).map(({ tenant, secret, state, reason, lastRefused }) => {
    const why = reason ?? (lastRefused === null ? state : `refused by upstream at ${lastRefused}`);
    return { kind: 'secret' as const, text: `Secret ${secret} of ${tenant ?? 'all tenants'}: ${why}` };
  });
  const others = all.length - shown.length;
  return others === 0
    ? shown
    : [...shown, { kind: 'secret', text: `and ${others} more Secrets: see Tenants` }];
}
