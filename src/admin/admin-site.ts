/**
 * admin/: what operators see and do: the administration API below `/admin/v1` of the operations port, and what commands
 * ask a running server. May import everything but compose/ and cli/.
 *
 * The main idea: one table of operations (`operations.ts`) with a schema of every query, body and answer (`documents/`),
 * from which routes, rights, tests and the OpenAPI document follow. A file for each noun says what the parts below know.
 * Nothing here is on the way of a pull: lists come in pages, scans run in the survey's thread, and what changes is only
 * looked at while somebody listens.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { isStorageFull } from '../blobs/storage-full.ts';
import type { OpsOrigin, OpsSite } from '../http/ops-server.ts';
import { splitTarget } from '../http/path.ts';
import { storageTrouble } from '../http/storage-trouble.ts';
import { errorsIn } from '../lib/error-code.ts';
import { collectBytes } from '../lib/collect-bytes.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import { parseJsonObject } from '../lib/json.ts';
import type { Presence } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import { IndexAway } from '../metadata/index-away.ts';
import { OciError } from '../oci/errors.ts';
import { isOutage } from '../oci/outage.ts';
import { InvalidReference } from '../oci/reference.ts';
import type { z } from '../config/fields.ts';
import type { AdminAccess, Administrator } from './admin-access.ts';
import { AdminProblem } from './admin-problem.ts';
import {
  ADMIN_OPERATIONS,
  ADMIN_PATH,
  type AdminAnswer,
  type AdminBody,
  type AdminOperation,
  type AdminOperationId,
  type AdminQuery,
} from './operations.ts';

/** A request for an operation, parsed and admitted. */
export interface AdminRequest<Id extends AdminOperationId> {
  readonly who: Administrator;
  /** What stands for `{id}` in the path; '' if nothing does. */
  readonly id: string;
  readonly query: AdminQuery<Id>;
  readonly body: AdminBody<Id>;
  /** In which the request's headers arrived: what it changes belongs to that. */
  readonly during: Presence;
}

/** What answers each operation; rejects with AdminProblem, or with what the parts below throw. */
export type AdminHandlers = {
  readonly [Id in AdminOperationId]: (request: AdminRequest<Id>) => Promise<AdminAnswer<Id>>;
};

/** A change that was attempted, for the audit log. */
export interface AdminDeed {
  readonly who: Administrator;
  /** As in the path: `refresh`, `tenant-rotate`; of a task, `pull`, and `pull ended`. */
  readonly action: string;
  /** The image, tenant or endpoint. */
  readonly subject: string | undefined;
  readonly outcome: 'allowed' | 'refused' | 'failed';
  readonly reason: string | undefined;
}

export interface AdminSiteOptions {
  readonly access: AdminAccess;
  readonly handlers: AdminHandlers;
  /** Takes over the response of `/events`. */
  readonly events: { follow(req: IncomingMessage, res: ServerResponse, who: string): void };
  /** The text of `/openapi.json`. */
  readonly description: () => string;
  readonly record: (deed: AdminDeed) => void;
  /** The current one. */
  readonly presence: () => Presence;
  readonly clock: Clock;
  readonly log: Log;
}

/** A name and some options. */
const MAX_BODY_BYTES = 64 * 1024;
/**
 * Of admitted requests in progress, for commands, for this machine and for each kind of login. People and scripts send one
 * after the other; each may hold a page of a list. Clients that are yet to be identified take no room from those that were.
 */
const MAX_RUNNING = 64;
/** How long a client may take to receive an answer. */
const RECEIVED_WITHIN_MS = 30_000;
/** How often a client that follows events is admitted again. The cluster is seldom asked, since its answers are kept longer. */
const ADMITTED_EACH_MS = 15_000;

const HEADERS = {
  'Cache-Control': 'no-store',
  'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
  'Cross-Origin-Resource-Policy': 'same-origin',
  'X-Content-Type-Options': 'nosniff',
} as const;

interface Found {
  readonly operation: AdminOperationId;
  readonly id: string;
}

/** Answers requests for the administration API. */
export class AdminSite implements OpsSite {
  readonly prefix = ADMIN_PATH;
  readonly #options: AdminSiteOptions;
  readonly #running = new Map<Administrator['by'], number>();

  constructor(options: AdminSiteOptions) {
    this.#options = options;
  }

  async serve(req: IncomingMessage, res: ServerResponse, origin: OpsOrigin): Promise<void> {
    const during = this.#options.presence();
    try {
      const who = await this.#options.access.admit(req, origin);
      await this.#limited(who, () => this.#answer(req, res, { who, origin, during }));
    } catch (error) {
      const problem = problemOf(error);
      if (problem.code === 'internal' || (storageProblem(error) !== undefined && !isOutage(error))) {
        this.#options.log.error({ err: error }, 'the administration API failed to answer');
      }
      writeJson(req, res, {
        status: problem.status,
        headers: problem.headers,
        text: JSON.stringify(problem),
      });
    }
  }

  async #limited({ by }: Administrator, work: () => Promise<void>): Promise<void> {
    const count = (change: number) =>
      this.#running.set(by, (this.#running.get(by) ?? 0) + change).get(by) ?? 0;
    try {
      if (count(1) > MAX_RUNNING) throw new AdminProblem('unavailable', 'too many requests at once');
      await work();
    } finally {
      count(-1);
    }
  }

  async #answer(
    req: IncomingMessage,
    res: ServerResponse,
    {
      who,
      origin,
      during,
    }: { readonly who: Administrator; readonly origin: OpsOrigin; readonly during: Presence },
  ): Promise<void> {
    const { access, events, description } = this.#options;
    // As it was sent: what a proxy took for one path must not mean another.
    const { path, query: search } = splitTarget(req.url ?? '');
    const below = path.slice(ADMIN_PATH.length);
    if (below === '/events' || below === '/openapi.json') {
      if (!isRead(req)) throw notAllowed(['GET']);
      if (below === '/events') {
        events.follow(req, res, `${who.by} ${who.name}`);
        if (who.by === 'kubernetes') this.#endWithRight(req, res, origin);
      } else writeJson(req, res, { status: 200, text: description() });
      return;
    }
    const { operation: id, ...found } = findOperation(below, req);
    const operation: AdminOperation = ADMIN_OPERATIONS[id];
    const attempt = async () => {
      if (operation.rights === 'full') access.requireChange(req, who);
      const query = parseQuery(operation, new URLSearchParams(search));
      const body = await parseBody(operation, req);
      return { query, body };
    };
    const text = await this.#recorded(
      { who, id, isChange: operation.rights === 'full' },
      attempt,
      async input => JSON.stringify(await this.#run(id, { ...input, ...found, who, during })),
    );
    writeJson(req, res, { status: operation.status ?? 200, text });
  }

  /** Ends a stream when its client may not read any more: tokens expire, and rights in the cluster are taken away. */
  #endWithRight(req: IncomingMessage, res: ServerResponse, origin: OpsOrigin): void {
    const { access, clock } = this.#options;
    let timer: Timer | undefined;
    const wait = () => {
      if (!res.closed) timer = clock.after(ADMITTED_EACH_MS, check).unref();
    };
    const check = () => void access.admit(req, origin).then(wait, () => res.end());
    res.once('close', () => timer?.cancel());
    wait();
  }

  /** Runs an operation; if it is a change, its attempt and result are recorded. */
  async #recorded(
    {
      who,
      id,
      isChange,
    }: { readonly who: Administrator; readonly id: AdminOperationId; readonly isChange: boolean },
    attempt: () => Promise<Input>,
    run: (input: Input) => Promise<string>,
  ): Promise<string> {
    let subject: string | undefined;
    const tell = (outcome: AdminDeed['outcome'], reason?: string) => {
      if (isChange) this.#options.record({ who, action: actionOf(id), subject, outcome, reason });
    };
    try {
      const input = await attempt();
      subject = subjectOf(input.body);
      const text = await run(input);
      tell('allowed');
      return text;
    } catch (error) {
      const { code, message } = problemOf(error);
      tell(code === 'internal' || code === 'unavailable' ? 'failed' : 'refused', message);
      throw error;
    }
  }

  #run(
    id: AdminOperationId,
    request: Input & Omit<AdminRequest<AdminOperationId>, keyof Input>,
  ): Promise<unknown> {
    // The schemas of the operation have made query and body what its handler takes.
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion
    const handler = this.#options.handlers[id] as (request: unknown) => Promise<unknown>;
    return handler(request);
  }
}

interface Input {
  readonly query: unknown;
  readonly body: unknown;
}

function isRead({ method }: IncomingMessage): boolean {
  return method === 'GET' || method === 'HEAD';
}

function notAllowed(methods: readonly string[]): AdminProblem {
  return new AdminProblem('not-allowed', `only ${methods.join(' and ')} can be used here`, {
    Allow: methods.join(', '),
  });
}

/** Throws AdminProblem if there is none for the path, or none with the method. */
function findOperation(path: string, req: IncomingMessage): Found {
  const found = OPERATION_IDS.flatMap(operation => {
    const match = PATTERNS[operation].exec(path);
    return match === null ? [] : [{ operation, id: match[1] ?? '' }];
  });
  const method = isRead(req) ? 'GET' : req.method;
  const meant = found.find(({ operation }) => ADMIN_OPERATIONS[operation].method === method);
  if (meant !== undefined) return meant;
  if (found.length === 0) throw new AdminProblem('not-found', `there is no ${ADMIN_PATH}${path}`);
  throw notAllowed(found.map(({ operation }) => ADMIN_OPERATIONS[operation].method));
}

// Object.keys is not typed more narrowly.
// oxlint-disable-next-line typescript/no-unsafe-type-assertion
const OPERATION_IDS = Object.keys(ADMIN_OPERATIONS) as AdminOperationId[];

// oxlint-disable-next-line typescript/no-unsafe-type-assertion
const PATTERNS = Object.fromEntries(
  OPERATION_IDS.map(id => [
    id,
    new RegExp(`^${ADMIN_OPERATIONS[id].path.replace('{id}', String.raw`([\w-]{1,64})`)}$`),
  ]),
) as Record<AdminOperationId, RegExp>;

function parseQuery({ query }: AdminOperation, parameters: URLSearchParams): unknown {
  const names = [...parameters.keys()];
  const twice = names.find((name, index) => names.indexOf(name) < index);
  if (twice !== undefined) throw new AdminProblem('invalid', `parameter ${twice} is given twice`);
  if (query === undefined) {
    if (names.length > 0) throw new AdminProblem('invalid', `there is no parameter ${names[0]}`);
    return undefined;
  }
  return parsed(query.strict(), Object.fromEntries(parameters), 'parameter');
}

async function parseBody({ body }: AdminOperation, req: IncomingMessage): Promise<unknown> {
  if (body === undefined) return undefined;
  if (!/^application\/json *(?:;|$)/i.test(req.headers['content-type'] ?? '')) {
    throw new AdminProblem('invalid', 'the body must be JSON, with Content-Type: application/json');
  }
  const tooLong = () => new AdminProblem('invalid', `the body is longer than ${MAX_BODY_BYTES} bytes`);
  const value = parseJsonObject(await collectBytes(req, MAX_BODY_BYTES, tooLong));
  if (value === undefined) throw new AdminProblem('invalid', 'the body is not a JSON object');
  return parsed(body, value, 'member');
}

/** The message where zod's would name a value that the requester did not send; otherwise `undefined`. */
function faultOf(input: unknown): string | undefined {
  if (input === undefined) return 'missing';
  return Number.isNaN(input) ? 'not a number' : undefined;
}

function parsed(schema: z.ZodType, value: unknown, kind: string): unknown {
  const result = schema.safeParse(value, { error: ({ input }) => faultOf(input) });
  if (result.success) return result.data;
  const problems = result.error.issues.map(({ path, message }) =>
    path.length === 0 ? message : `${kind} ${path.join('.')}: ${message}`,
  );
  throw new AdminProblem('invalid', problems.join('; '));
}

const ACTIONS = '/actions/';

/** By which name people know an operation. */
function actionOf(id: AdminOperationId): string {
  const { path } = ADMIN_OPERATIONS[id];
  return path.startsWith(ACTIONS) ? path.slice(ACTIONS.length) : id;
}

/** What a change is about: the image, tenant or endpoint in its body. */
function subjectOf(body: unknown): string | undefined {
  if (typeof body !== 'object' || body === null) return undefined;
  for (const name of ['image', 'reference', 'tenant', 'endpoint']) {
    const value: unknown = Reflect.get(body, name);
    if (typeof value === 'string') return value;
  }
  return undefined;
}

/** What a failure means for the client; a bug is not described. */
function problemOf(error: unknown): AdminProblem {
  if (error instanceof AdminProblem) return error;
  if (error instanceof InvalidReference) return new AdminProblem('invalid', error.message);
  if (error instanceof OciError && error.code !== 'UNKNOWN') {
    return new AdminProblem(error.status >= 500 ? 'unavailable' : 'refused', error.story);
  }
  if (error instanceof IndexAway) return new AdminProblem('unavailable', error.message);
  const message = storageProblem(error);
  if (message !== undefined) return new AdminProblem('unavailable', message);
  return new AdminProblem('internal', 'internal error: see the log');
}

/** What to say if it is the disk, or the index on it, that fails; `undefined` if it is not. */
function storageProblem(error: unknown): string | undefined {
  for (const cause of errorsIn(error))
    if (isStorageFull(cause))
      return 'the disk is full, so nothing can be changed: make room on it, or let upkeep do so (entrepot gc)';
  return storageTrouble(error)?.message;
}

interface Written {
  readonly status: number;
  readonly headers?: AdminProblem['headers'];
  readonly text: string;
}

function writeJson(req: IncomingMessage, res: ServerResponse, { status, headers, text }: Written): void {
  if (res.headersSent) {
    res.destroy();
    return;
  }
  const late = setTimeout(() => res.destroy(), RECEIVED_WITHIN_MS);
  res.once('close', () => clearTimeout(late));
  const body = Buffer.from(text);
  // What was not read of a body is not read: the connection ends.
  const rest = req.complete ? {} : { Connection: 'close' };
  res.writeHead(status, {
    ...HEADERS,
    ...headers,
    ...rest,
    'Content-Type': 'application/json',
    'Content-Length': body.byteLength,
  });
  res.end(req.method === 'HEAD' ? undefined : body);
}
