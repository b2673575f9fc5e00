import { absentAsUndefined } from '../lib/error-code.ts';
import { type JsonObject, parseJsonObject } from '../lib/json.ts';
import { openRegularFile } from '../lib/regular-file.ts';
import type { Audit } from '../ops/audit.ts';
import type { AdminDeed } from './admin-site.ts';
import { AdminProblem } from './admin-problem.ts';
import type { AuditDocument, AuditEntry } from './documents/audit.ts';
import type { AdminQuery } from './operations.ts';
import { cursorOf, keyOfNumber, type ListPage, openCursor, pageOfSorted, sortedBy } from './paging.ts';
import { type Search, searchFor } from './search.ts';

/** Changes that are remembered here: a few hundred KB. */
const MAX_REMEMBERED = 1_000;
/** How much of the file is read and parsed at a time: some thousand lines, in a few milliseconds. */
const WINDOW_BYTES = 256 * 1024;
/** A search is answered in steps of so many. */
const MAX_WINDOWS = 16;

export interface AuditTrailOptions {
  readonly output: AuditDocument['output'];
  /** For the output `file`. */
  readonly auditFile: string | undefined;
  /** `undefined` if there is no audit log. */
  readonly audit: Audit | undefined;
}

/**
 * Records what is changed by the administration API, and shows the end of the audit log: of the file, where there is one,
 * which has the requests of clients as well; otherwise of what was changed here since the start.
 */
export class AuditTrail {
  readonly #options: AuditTrailOptions;
  readonly #remembered: AuditEntry[] = [];
  readonly #listeners = new Set<() => void>();
  #nextId = 1;

  constructor(options: AuditTrailOptions) {
    this.#options = options;
  }

  record({ who, action, subject, outcome, reason }: AdminDeed): void {
    const { name, by, remote } = who;
    this.#options.audit?.record({
      admin: name,
      by,
      remote,
      action: `admin ${action}`,
      subject,
      outcome,
      reason,
    });
    this.#remembered.push({
      id: keyOfNumber(this.#nextId++),
      at: new Date().toISOString(),
      who: name,
      remote,
      action: `admin ${action}`,
      subject: subject ?? null,
      outcome,
      reason: reason ?? null,
    });
    if (this.#remembered.length > MAX_REMEMBERED) this.#remembered.shift();
    for (const listener of this.#listeners) listener();
  }

  /** Calls `listener` after each record; returns a function that stops this. */
  onRecord(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** The latest first. */
  async page(ask: AdminQuery<'audit'>): Promise<AuditDocument> {
    const { output, auditFile } = this.#options;
    if (output === 'file' && auditFile !== undefined) {
      this.#options.audit?.flush();
      return { output, covers: 'requests', ...(await pageOfFile(auditFile, ask)) };
    }
    const search = searchFor(ask.q);
    const wanted = this.#remembered.filter(entry => isAbout(entry, search));
    const { entries, next } = pageOfSorted(sortedBy(wanted, latestFirst), latestFirst, ask);
    return { output, covers: 'changes', entries, next };
  }
}

/** The largest id is the smallest key. */
function latestFirst({ id }: AuditEntry): string {
  return keyOfNumber(Number.MAX_SAFE_INTEGER - Number(id));
}

/** The lines before the place in the file that the cursor means, the last first. Lines keep their places. */
async function pageOfFile(
  path: string,
  { q, after, limit }: AdminQuery<'audit'>,
): Promise<ListPage<AuditEntry>> {
  const opened = await absentAsUndefined(openRegularFile(path));
  if (opened === undefined) return { entries: [], next: null };
  const { file, stats } = opened;
  try {
    const entries: AuditEntry[] = [];
    const search = searchFor(q);
    let place = after === undefined ? stats.size : Math.min(placeIn(after), stats.size);
    for (let windows = 0; windows < MAX_WINDOWS && place > 0 && entries.length < limit; windows += 1) {
      const begin = Math.max(0, place - WINDOW_BYTES);
      const bytes = Buffer.alloc(place - begin);
      const { bytesRead } = await file.read(bytes, 0, bytes.byteLength, begin);
      // A last line without its end is still being written.
      let lineEnd = bytes.lastIndexOf('\n', bytesRead - 1);
      while (lineEnd >= 0 && entries.length < limit) {
        const lineStart = lineEnd === 0 ? 0 : bytes.lastIndexOf('\n', lineEnd - 1) + 1;
        // Of the first line only the end may be in the window.
        if (lineStart === 0 && begin > 0) break;
        const line = parseJsonObject(bytes.subarray(lineStart, lineEnd));
        const entry = line && entryOf(line, begin + lineStart);
        if (entry !== undefined && isAbout(entry, search)) entries.push(entry);
        lineEnd = lineStart - 1;
      }
      const reached = begin + lineEnd + 1;
      // No line is as long as a window: what is there is not a log.
      if (reached === place && begin > 0) return { entries, next: null };
      place = reached;
    }
    return { entries, next: place === 0 ? null : cursorOf(String(place)) };
  } finally {
    await file.close();
  }
}

function isAbout({ who, action, subject, outcome, reason, remote }: AuditEntry, search: Search): boolean {
  return search(who, action, subject, outcome, reason, remote);
}

function placeIn(cursor: string): number {
  const place = openCursor(cursor);
  if (!/^\d{1,15}$/.test(place)) throw new AdminProblem('invalid', 'after is not a cursor of this list');
  return Number(place);
}

function entryOf(line: JsonObject, place: number): AuditEntry {
  const text = (name: string): string | null => {
    const value = line[name];
    return typeof value === 'string' ? value : null;
  };
  const repository = text('repository');
  const reference = text('reference');
  const separator = reference?.includes(':') === true ? '@' : ':';
  const named =
    repository === null || reference === null ? repository : `${repository}${separator}${reference}`;
  const atMs = Date.parse(text('time') ?? '');
  return {
    id: String(place),
    at: new Date(Number.isNaN(atMs) ? 0 : atMs).toISOString(),
    who: text('admin') ?? text('tenant') ?? text('username') ?? text('requester') ?? 'unknown',
    remote: text('remote'),
    action: text('action') ?? 'unknown',
    subject: text('subject') ?? named,
    outcome: text('outcome') ?? 'unknown',
    reason: text('reason'),
  };
}
