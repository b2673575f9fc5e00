import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import type { IncomingHttpHeaders, IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import { dirname, extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import type { OpsOrigin, OpsSite } from '../http/ops-server.ts';
import { errorCode } from '../lib/error-code.ts';
import type { AdminAccess } from './admin-access.ts';
import { AdminProblem } from './admin-problem.ts';

/** Of the kinds of files that the build makes; no other file is sent. */
const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.txt': 'text/plain; charset=utf-8',
};

/**
 * The page gets nothing from elsewhere, runs and applies only its own files, and is shown in no other page. Text of
 * others can become neither script nor markup: with `require-trusted-types-for` and no policy, not by `innerHTML` either.
 */
const SECURITY: OutgoingHttpHeaders = {
  'Content-Security-Policy': [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join('; '),
  'X-Frame-Options': 'DENY',
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Permissions-Policy': 'camera=(), geolocation=(), microphone=(), payment=(), usb=()',
};

const PREFIX = '/ui';
const DOCUMENT = 'index.html';
/** Names below this folder contain a hash of the content, so they never mean anything else. */
const IMMUTABLE_FOLDER = 'assets/';

/** How long a client may take to receive a file. */
const RECEIVED_WITHIN_MS = 30_000;

interface PageFile {
  readonly type: string;
  readonly tag: string;
  readonly bytes: Buffer;
  readonly gzipped: Buffer;
}

interface PageAnswer {
  readonly status: number;
  readonly headers: OutgoingHttpHeaders;
  readonly body?: Buffer;
}

export interface PageSiteOptions {
  /** Where the build put the page: see `pageFolder`. */
  readonly folder: string;
  /**
   * The files are no secret. They are given to the same people as what they show, so that a browser asks for the login
   * when the page is opened, and refuses one that came by a name of somebody else.
   */
  readonly access: Pick<AdminAccess, 'admit'>;
}

/** Where the build puts the page, for the module `caller` (its `import.meta.url`): in `dist/`, or beside `src/`. */
export function pageFolder(caller: string): string {
  const folder = dirname(fileURLToPath(caller));
  return caller.endsWith('.ts') ? join(folder, '../../dist/ui') : join(folder, 'ui');
}

/**
 * Serves the files of the operator's page. What is in the folder at the first request exists; from then on it is in
 * memory, some 200 KB.
 */
export class PageSite implements OpsSite {
  readonly prefix = PREFIX;
  readonly #options: PageSiteOptions;
  #files: Promise<ReadonlyMap<string, PageFile>> | undefined;

  constructor(options: PageSiteOptions) {
    this.#options = options;
  }

  async serve(req: IncomingMessage, res: ServerResponse, origin: OpsOrigin): Promise<void> {
    const { status, headers, body } = await this.#answer(req, origin).catch(refusal);
    const late = setTimeout(() => res.destroy(), RECEIVED_WITHIN_MS);
    res.once('close', () => clearTimeout(late));
    const length = body === undefined ? {} : { 'Content-Length': body.byteLength };
    res.writeHead(status, { ...SECURITY, ...headers, ...length });
    res.end(req.method === 'HEAD' ? undefined : body);
  }

  async #answer(req: IncomingMessage, origin: OpsOrigin): Promise<PageAnswer> {
    const [path = ''] = (req.url ?? '').split('?', 1);
    await this.#options.access.admit(asVisit(req), origin);
    if (req.method !== 'GET' && req.method !== 'HEAD') {
      return { ...text(405, 'only GET is supported'), headers: { Allow: 'GET, HEAD' } };
    }
    // Relative, so that it holds behind a proxy that adds a prefix.
    if (path === PREFIX) return { status: 308, headers: { Location: 'ui/', 'Content-Length': 0 } };
    const name = path.slice(PREFIX.length + 1) || DOCUMENT;
    const files = await this.#filesOnce();
    const file = files.get(name);
    if (file !== undefined) return fileAnswer(name, file, req.headers);
    return text(
      404,
      files.size === 0 ? 'this installation has no page: npm run build makes it' : 'not found',
    );
  }

  #filesOnce(): Promise<ReadonlyMap<string, PageFile>> {
    this.#files ??= readFiles(this.#options.folder).catch((error: unknown) => {
      this.#files = undefined;
      throw error;
    });
    return this.#files;
  }
}

/**
 * A link may lead here from anywhere: who follows it sees the page in a window of its own, of which the other site learns
 * nothing. What the page itself then asks for comes from this site.
 */
function asVisit(req: IncomingMessage): IncomingMessage {
  const { headers } = req;
  if (headers['sec-fetch-mode'] !== 'navigate' || headers['sec-fetch-dest'] !== 'document') return req;
  if (req.method !== 'GET' || headers.origin !== undefined) return req;
  return Object.create(req, { headers: { value: { ...headers, 'sec-fetch-site': 'none' } } });
}

async function readFiles(folder: string): Promise<ReadonlyMap<string, PageFile>> {
  const names = await readdir(folder, { recursive: true }).catch((error: unknown) => {
    if (errorCode(error) === 'ENOENT') return [];
    throw error;
  });
  const files = new Map<string, PageFile>();
  for (const name of names) {
    const type = TYPES[extname(name)];
    if (type === undefined) continue;
    const bytes = await readFile(join(folder, name));
    const tag = createHash('sha256').update(bytes).digest('base64url').slice(0, 22);
    files.set(name, { type, tag, bytes, gzipped: await promisify(gzip)(bytes, { level: 9 }) });
  }
  return files;
}

function fileAnswer(name: string, file: PageFile, request: IncomingHttpHeaders): PageAnswer {
  const isCompressed = /\bgzip\b/.test(request['accept-encoding']?.toString() ?? '');
  const tag = `"${file.tag}${isCompressed ? '-gzip' : ''}"`;
  const headers: OutgoingHttpHeaders = {
    ETag: tag,
    Vary: 'Accept-Encoding',
    'Cache-Control': name.startsWith(IMMUTABLE_FOLDER) ? 'private, max-age=31536000, immutable' : 'no-cache',
  };
  const known = request['if-none-match']?.split(',').map(each => each.trim().replace(/^W\//, ''));
  if (known?.includes(tag)) return { status: 304, headers };
  return {
    status: 200,
    headers: { ...headers, 'Content-Type': file.type, ...(isCompressed && { 'Content-Encoding': 'gzip' }) },
    body: isCompressed ? file.gzipped : file.bytes,
  };
}

/** What somebody reads who may not see the page; throws anything but that. */
function refusal(error: unknown): PageAnswer {
  if (!(error instanceof AdminProblem)) throw error;
  const { headers, ...answer } = text(error.status, error.message);
  return { ...answer, headers: { ...headers, ...error.headers } };
}

function text(status: number, message: string): PageAnswer {
  const headers = { 'Content-Type': 'text/plain; charset=utf-8', 'Cache-Control': 'no-store' };
  return { status, headers, body: Buffer.from(`${message}\n`) };
}
