/** Shared by the tests of http/: a source in memory, a server on it, and simple clients. */
import http from 'node:http';
import net from 'node:net';
import type { BlobReader, LentBytes } from '../lib/blob-reader.ts';
import type { Subject } from '../access/subject.ts';
import { Presence } from '../lib/lease.ts';
import { silentLog, type Log } from '../lib/log.ts';
import { silentMeter } from '../lib/meter.ts';
import { type Digest, digestOf } from '../oci/digest.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { OciError } from '../oci/errors.ts';
import type {
  ManifestWant,
  Outcome,
  Page,
  PullSource,
  ServedManifest,
  ServedTags,
} from '../oci/pull-source.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { ANONYMOUS, type Right } from '../oci/requester.ts';
import type { RequestAccess } from './front.ts';
import { RepositoryResolver } from '../oci/repository-resolver.ts';
import { createRegistryServer, type RegistryServer, type RegistryServerOptions } from './server.ts';

export const RIGHT: Right = {
  requester: ANONYMOUS,
  credentials: [undefined],
  proved: true,
  provedIfUnreachable: false,
};

/** A subject that may do everything. */
export const openSubject: Subject = {
  requester: ANONYMOUS,
  admit: async () => {},
  authorize: async () => RIGHT,
  maySee: async () => true,
  refusal: async error => error,
};

export const openAccess: RequestAccess = { authenticate: async () => openSubject };

/** A reader of bytes in memory that records how it is used. */
export class MemoryReader implements BlobReader {
  readonly size: number;
  shares: object | undefined;
  url: (() => Promise<string>) | undefined;
  /** How many bytes it lends at a time; if absent, all have to be read. */
  lendsBytes: number | undefined;
  /** What became of the bytes that it has lent. */
  readonly loans = { lent: 0, givenBack: 0, abandoned: 0 };
  readonly bytes = undefined;
  readonly #bytes: Uint8Array;
  readonly #gate: (position: number, closed: Promise<void>) => Promise<void>;
  #markClosed: () => void = () => {};
  readonly #closed: Promise<void>;
  isClosed = false;
  reads = 0;

  constructor(
    bytes: Uint8Array,
    gate: (position: number, closed: Promise<void>) => Promise<void> = async () => {},
  ) {
    this.#bytes = bytes;
    this.size = bytes.byteLength;
    this.#gate = gate;
    this.#closed = new Promise(resolve => {
      this.#markClosed = resolve;
    });
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    this.reads += 1;
    await this.#gate(position, this.#closed);
    if (this.isClosed) throw new Error('closed');
    const part = this.#bytes.subarray(position, position + buffer.byteLength);
    buffer.set(part);
    return part.byteLength;
  }

  async lend(position: number): Promise<LentBytes | undefined> {
    if (this.lendsBytes === undefined) return undefined;
    this.loans.lent += 1;
    return {
      bytes: this.#bytes.subarray(position, position + this.lendsBytes),
      giveBack: () => void (this.loans.givenBack += 1),
      abandon: () => void (this.loans.abandoned += 1),
    };
  }

  async close(): Promise<void> {
    this.isClosed = true;
    this.#markClosed();
  }
}

export class MemorySource implements PullSource {
  readonly manifests = new Map<string, { descriptor: Descriptor; bytes: Uint8Array }>();
  readonly blobs = new Map<string, () => BlobReader>();
  readonly tagNames = new Map<string, string[]>();
  referrerList: Descriptor[] = [];
  outcome: Outcome = 'hit';
  stored = true;
  readonly asked: string[] = [];
  lastWant: ManifestWant | undefined;
  /** How many blobs were opened, and which readers are open. */
  opened = 0;
  readonly stillOpen = new Set<BlobReader>();

  addManifest(repository: string, tag: string, text: string, mediaType: string): Descriptor {
    const bytes = Buffer.from(text);
    const descriptor = { mediaType, digest: digestOf(bytes), size: bytes.byteLength };
    for (const reference of [tag, descriptor.digest]) {
      this.manifests.set(`${repository}@${reference}`, { descriptor, bytes });
    }
    return descriptor;
  }

  addBlob(
    repository: string,
    bytes: Uint8Array,
    open: () => BlobReader = () => new MemoryReader(bytes),
  ): Digest {
    const digest = digestOf(bytes);
    this.blobs.set(`${repository}@${digest}`, open);
    return digest;
  }

  async manifest(
    repository: Repository,
    reference: string,
    _right: Right,
    want: ManifestWant,
  ): Promise<ServedManifest> {
    this.lastWant = want;
    const held = this.manifests.get(this.#note(repository, reference));
    if (held === undefined) throw new OciError('MANIFEST_UNKNOWN', { detail: { reference } });
    return { ...held, ...this.#served() };
  }

  async statBlob(repository: Repository, digest: Digest) {
    const open = this.blobs.get(this.#note(repository, digest));
    if (open === undefined) throw new OciError('BLOB_UNKNOWN', { detail: { digest } });
    const reader = open();
    return { digest, size: reader.size, ...this.#served() };
  }

  async openBlob(repository: Repository, digest: Digest) {
    const open = this.blobs.get(this.#note(repository, digest));
    if (open === undefined) throw new OciError('BLOB_UNKNOWN', { detail: { digest } });
    return { digest, reader: this.#track(open()), ...this.#served() };
  }

  async tags(repository: Repository, { limit, after }: Page, _right: Right): Promise<ServedTags> {
    const all = this.tagNames.get(repositoryText(repository));
    if (all === undefined) throw new OciError('NAME_UNKNOWN');
    const rest = all.filter(tag => after === undefined || tag > after);
    const tags = rest.slice(0, limit);
    return { tags, next: rest.length > tags.length ? tags.at(-1) : undefined, ...this.#served() };
  }

  async referrers(
    _repository: Repository,
    _subject: Digest,
    { artifactType, page }: { artifactType: string | undefined; page: Page },
  ) {
    const all = this.referrerList.filter(
      entry => artifactType === undefined || entry.artifactType === artifactType,
    );
    const rest = all.filter(({ digest }) => page.after === undefined || digest > page.after);
    const manifests = rest.slice(0, page.limit);
    const next = rest.length > manifests.length ? manifests.at(-1)?.digest : undefined;
    return { manifests, filtered: artifactType !== undefined, next, ...this.#served() };
  }

  #track(reader: BlobReader): BlobReader {
    this.opened += 1;
    this.stillOpen.add(reader);
    return {
      size: reader.size,
      get shares() {
        return reader.shares;
      },
      bytes: reader.bytes,
      url: reader.url,
      lend: async position => reader.lend?.(position),
      read: (buffer, position) => reader.read(buffer, position),
      close: async () => {
        this.stillOpen.delete(reader);
        await reader.close();
      },
    };
  }

  #note(repository: Repository, reference: string): string {
    const key = `${repositoryText(repository)}@${reference}`;
    this.asked.push(key);
    return key;
  }

  #served() {
    return { outcome: this.outcome, stored: this.stored, upstreamMs: 0 };
  }
}

/** A log that keeps its lines. */
export class KeptLog implements Log {
  readonly lines: { level: string; fields: Record<string, unknown>; message: string }[] = [];

  debug(fields: object, message: string): void {
    this.#keep('debug', fields, message);
  }
  info(fields: object, message: string): void {
    this.#keep('info', fields, message);
  }
  warn(fields: object, message: string): void {
    this.#keep('warn', fields, message);
  }
  error(fields: object, message: string): void {
    this.#keep('error', fields, message);
  }
  child(): Log {
    return this;
  }
  #keep(level: string, fields: object, message: string): void {
    this.lines.push({ level, fields: { ...fields }, message });
  }
}

export const testResolver = new RepositoryResolver({
  upstreams: [
    { name: 'docker.io', aliases: ['hub'], hostAliases: ['docker.mirror.example'] },
    { name: 'ghcr.io', aliases: [], hostAliases: [] },
  ],
  serverNames: ['registry.example:5000'],
  hostedPrefixes: new Set(['team-a']),
});

/** A server on a free loopback port, to be stopped by the caller. */
export async function startServer(
  source: MemorySource,
  options: Partial<RegistryServerOptions> = {},
): Promise<RegistryServer & { readonly url: string; readonly port: number }> {
  const server = await createRegistryServer({
    listeners: [{ host: '127.0.0.1', port: 0 }],
    resolver: testResolver,
    access: openAccess,
    mirror: source,
    hosted: source,
    presence: () => new Presence(),
    log: silentLog,
    meter: silentMeter,
    ...options,
  });
  const [first] = server.addresses;
  if (first === undefined) throw new Error('no listener');
  return Object.assign(server, { url: first.url, port: first.port });
}

export interface Reply {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: Buffer;
}

/** Sends a request exactly as given: the path is not normalized, and only Host is added. */
export function request(
  port: number,
  path: string,
  options: {
    method?: string;
    headers?: http.OutgoingHttpHeaders;
    agent?: http.Agent;
    body?: string;
    host?: string;
    socketPath?: string;
    localAddress?: string;
  } = {},
): Promise<Reply> {
  const { method = 'GET', headers = {}, agent, body, host = '127.0.0.1', socketPath, localAddress } = options;
  const to = socketPath === undefined ? { host, port, localAddress } : { socketPath };
  return new Promise((resolve, reject) => {
    const req = http.request({ ...to, path, method, headers, agent: agent ?? false }, res => {
      const chunks: Buffer[] = [];
      res.on('data', (chunk: Buffer) => chunks.push(chunk));
      res.on('error', reject);
      res.on('end', () =>
        resolve({ status: res.statusCode ?? 0, headers: res.headers, body: Buffer.concat(chunks) }),
      );
    });
    req.on('error', reject);
    req.end(body);
  });
}

/** A plain socket; `received` grows, `closed` resolves with everything received. */
export function connect(port: number): {
  socket: net.Socket;
  received: () => string;
  closed: Promise<string>;
} {
  const chunks: Buffer[] = [];
  const socket = net.connect(port, '127.0.0.1');
  const text = (): string => Buffer.concat(chunks).toString('latin1');
  const closed = new Promise<string>(resolve => {
    socket.on('data', chunk => chunks.push(chunk));
    socket.on('error', () => {});
    socket.on('close', () => resolve(text()));
  });
  return { socket, received: text, closed };
}

/** Resolves when `check` returns true; rejects after a time that no machine is too busy for. */
export async function until(check: () => boolean): Promise<void> {
  const deadlineMs = Date.now() + 20_000;
  while (!check()) {
    if (Date.now() > deadlineMs) throw new Error('it never came true');
    await new Promise(resolve => {
      setTimeout(resolve, 5);
    });
  }
}
