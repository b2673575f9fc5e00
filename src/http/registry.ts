import { parseAuthorization } from '../access/authorization.ts';
import type { Action, Subject } from '../access/subject.ts';
import { ArchNames } from './arch-names.ts';
import { OciError } from '../oci/errors.ts';
import type { PullSource } from '../oci/pull-source.ts';
import type { PullTarget } from '../oci/pull-read.ts';
import type { Repository } from '../oci/repository.ts';
import type { Requester, Right } from '../oci/requester.ts';
import { readBase } from './base.ts';
import { readBlob } from './blobs.ts';
import type { BodyWriter } from './body-writer.ts';
import { jsonBody, type WholeBodies } from './whole-bodies.ts';
import type { Exchange } from './exchange.ts';
import type { RequestAccess, RecordDeed } from './front.ts';
import type { Call, HostedHandlers } from './hosted-handlers.ts';
import { readManifest } from './manifests.ts';
import type { RepositoryResolver } from '../oci/repository-resolver.ts';
import { actionOf, allowedMethods, hasOperation, type RepositoryRoute } from './operations.ts';
import { parsePath, referenceOf, type Route, splitTarget } from './path.ts';
import { listReferrers } from './referrers.ts';
import { listTags } from './tags.ts';

export interface RegistryParts {
  readonly resolver: RepositoryResolver;
  readonly access: RequestAccess;
  /** The pull side of mirrored repositories. */
  readonly mirror: PullSource;
  /** Whether NAME-ARCH may mean NAME for ARCH in the repository. */
  readonly mayNameArch?: ((repository: Repository) => boolean) | undefined;
  /** The pull side of hosted repositories. */
  readonly hosted: PullSource;
  /** The write side of hosted repositories; without it, every write is UNSUPPORTED. */
  readonly hostedHandlers?: HostedHandlers | undefined;
  /** `/token`; without it, there is no such path. */
  readonly token?: ((exchange: Exchange) => Promise<void>) | undefined;
  /** Called for every request when it has ended. */
  readonly recordDeed?: RecordDeed | undefined;
}

/** All routes: from a parsed request, through `Access`, to the handler of its noun. */
export class Registry {
  readonly #parts: RegistryParts;
  readonly #senders: { readonly writer: BodyWriter; readonly bodies: WholeBodies };

  constructor(parts: RegistryParts, writer: BodyWriter, bodies: WholeBodies) {
    this.#parts = parts;
    this.#senders = { writer, bodies };
  }

  /** Sends the response, or throws an error for `problem.ts`. */
  async serve(exchange: Exchange): Promise<void> {
    const route = parsePath(splitTarget(exchange.req.url ?? '').path, exchange.method);
    exchange.route = route;
    if (!hasOperation(route.kind, exchange.method)) throw unsupported(route);
    switch (route.kind) {
      case 'base':
        return this.#serveBase(exchange);
      case 'token':
        return this.#recorded(exchange, 'login', () => this.#serveToken(exchange));
      case 'catalog':
        return this.#recorded(exchange, 'list', () => this.#serveCatalog(exchange));
      default:
        return this.#serveRepository(exchange, route);
    }
  }

  /** A request with credentials has them checked; one without only asks whether it has to log in. */
  #serveBase(exchange: Exchange): Promise<void> {
    const work = () => readBase(exchange, this.#parts.access);
    return exchange.sender.authorization === undefined ? work() : this.#recorded(exchange, 'login', work);
  }

  #serveRepository(exchange: Exchange, route: RepositoryRoute): Promise<void> {
    const action = actionOf(route.kind, exchange.method);
    if (action === undefined) throw unsupported(route);
    return this.#recorded(exchange, action, () => this.#act(exchange, route, action));
  }

  async #act(exchange: Exchange, route: RepositoryRoute, action: Action): Promise<void> {
    requireOwnSite(exchange);
    const call = await this.#admit(exchange, route, action);
    try {
      await (isRead(exchange, route) ? this.#pull(call, route) : this.#write(call, route));
    } catch (error) {
      if (!(error instanceof OciError)) throw error;
      exchange.problem = error;
      const told = await call.subject.refusal(error, call.repository, action, exchange.method === 'HEAD');
      // What the client is told is logged, if it has this error as its cause.
      if (told.cause === error) exchange.problem = told;
      throw told;
    }
  }

  /** Reports the result of the request, whatever it is. */
  #recorded(exchange: Exchange, action: string, work: () => Promise<void>): Promise<void> {
    const { recordDeed } = this.#parts;
    return recordDeed === undefined ? work() : this.#recordedBy(recordDeed, exchange, action, work);
  }

  async #recordedBy(
    recordDeed: RecordDeed,
    exchange: Exchange,
    action: string,
    work: () => Promise<void>,
  ): Promise<void> {
    const tell = (outcome: 'allowed' | 'refused' | 'failed', reason?: string): void => {
      const { requester, repository, route, sender } = exchange;
      const reference = route && referenceOf(route);
      const username = outcome === 'refused' ? presentedName(exchange) : undefined;
      recordDeed({
        requester,
        username,
        remote: sender.remote,
        action,
        repository,
        reference,
        outcome,
        reason,
      });
    };
    try {
      await work();
      tell('allowed');
    } catch (error) {
      const isRefusal = error instanceof OciError && error.status < 500;
      tell(isRefusal ? 'refused' : 'failed', error instanceof OciError ? error.reason : 'internal error');
      throw error;
    }
  }

  #pull(call: AdmittedCall, route: RepositoryRoute): Promise<void> {
    const source = this.#sourceOf(call);
    switch (route.kind) {
      case 'manifest':
        return readManifest(call.with({ reference: route.reference }), source, this.#senders.bodies);
      case 'blob':
        return readBlob(call.with({ digest: route.digest }), source, this.#senders);
      case 'tags':
        return listTags(call, source, this.#senders.bodies);
      case 'referrers':
        return listReferrers(call.with({ digest: route.digest }), source, this.#senders.bodies);
      default:
        throw unsupported(route);
    }
  }

  #sourceOf(call: AdmittedCall): PullSource {
    const { hosted, mirror, mayNameArch } = this.#parts;
    if (call.repository.upstream === '') return hosted;
    if (mayNameArch?.(call.repository) !== true) return mirror;
    return new ArchNames({ source: mirror, authorize: repository => call.authorize(repository, 'pull') });
  }

  async #write(call: AdmittedCall, route: RepositoryRoute): Promise<void> {
    const handlers = this.#parts.hostedHandlers;
    // Access refuses writes to mirrors; this is a second check.
    if (handlers === undefined || call.repository.upstream !== '') throw unsupported(route);
    const { method } = call.exchange;
    switch (route.kind) {
      case 'manifest': {
        const manifest = call.with({ reference: route.reference });
        return method === 'PUT' ? handlers.putManifest(manifest) : handlers.deleteManifest(manifest);
      }
      case 'blob':
        return handlers.deleteBlob(call.with({ digest: route.digest }));
      case 'uploads':
        return handlers.startUpload(call);
      case 'upload': {
        const upload = call.with({ id: route.id });
        if (method === 'PATCH') return handlers.appendUpload(upload);
        if (method === 'PUT') return handlers.finishUpload(upload);
        return method === 'DELETE' ? handlers.cancelUpload(upload) : handlers.readUpload(upload);
      }
      default:
        throw unsupported(route);
    }
  }

  #admit(exchange: Exchange, route: RepositoryRoute, action: Action): Promise<AdmittedCall> {
    const { sender, query } = exchange;
    exchange.repository = this.#parts.resolver.resolve({
      name: route.name,
      ns: query.get('ns') ?? undefined,
      host: undefined,
      listenerUpstream: sender.upstreamListener,
    });
    return exchange.inTime(this.#authorize(exchange, exchange.repository, route, action));
  }

  async #authorize(
    exchange: Exchange,
    repository: Repository,
    route: RepositoryRoute,
    action: Action,
  ): Promise<AdmittedCall> {
    const subject = await this.#parts.access.authenticate(exchange.sender);
    exchange.requester = subject.requester;
    const target = isRead(exchange, route) ? targetOf(route) : undefined;
    const right = await subject.authorize(repository, action, target);
    exchange.requester = right.requester;
    return new AdmittedCall(subject, exchange, route.name, repository, right);
  }

  async #serveCatalog(exchange: Exchange): Promise<void> {
    const { access, hostedHandlers } = this.#parts;
    if (hostedHandlers === undefined) throw unsupported({ kind: 'catalog' });
    const subject = await exchange.inTime(access.authenticate(exchange.sender));
    exchange.requester = subject.requester;
    await hostedHandlers.catalog({
      exchange,
      maySee: repository => exchange.inTime(subject.maySee(repository)),
      send: (headers, list) => this.#senders.bodies.send(exchange, jsonBody(headers, list)),
    });
  }

  async #serveToken(exchange: Exchange): Promise<void> {
    requireOwnSite(exchange);
    if (this.#parts.token === undefined)
      throw new OciError('NAME_UNKNOWN', { message: 'logging in is not configured on this registry' });
    await this.#parts.token(exchange);
  }
}

class AdmittedCall implements Call {
  readonly subject: Subject;
  readonly exchange: Exchange;
  readonly name: string;
  readonly repository: Repository;
  readonly requester: Requester;
  readonly right: Right;

  constructor(subject: Subject, exchange: Exchange, name: string, repository: Repository, right: Right) {
    this.subject = subject;
    this.exchange = exchange;
    this.name = name;
    this.repository = repository;
    this.requester = right.requester;
    this.right = right;
  }

  authorize(repository: Repository, action: Action): Promise<Right> {
    return this.exchange.inTime(this.subject.authorize(repository, action));
  }

  /** This call with the further parts of its route. */
  with<T extends object>(more: T): this & T {
    return Object.assign(this, more);
  }
}

/** The content that a pull by this route asks for. */
function targetOf(route: RepositoryRoute): PullTarget | undefined {
  if (route.kind === 'manifest') return { manifest: route.reference };
  return route.kind === 'blob' ? { blob: route.digest } : undefined;
}

/** Reading the state of an upload needs the right to write. */
function isRead({ method }: Exchange, { kind }: RepositoryRoute): boolean {
  return (method === 'GET' || method === 'HEAD') && kind !== 'upload';
}

/** Longer user names are cut. */
const MAX_USERNAME_LENGTH = 256;

/** The user name that was presented, if the requester is not known. */
function presentedName({ requester, formUsername, sender }: Exchange): string | undefined {
  if (requester?.credentialId !== undefined) return undefined;
  const presented = parseAuthorization(sender.authorization);
  const name = formUsername ?? (presented?.scheme === 'basic' ? presented.username : undefined);
  return name?.slice(0, MAX_USERNAME_LENGTH);
}

function requireOwnSite({ siteProblem }: Exchange): void {
  if (siteProblem !== undefined) throw new OciError('DENIED', { message: siteProblem });
}

function unsupported({ kind }: Pick<Route, 'kind'>): OciError {
  return new OciError('UNSUPPORTED', { headers: { Allow: allowedMethods(kind) } });
}
