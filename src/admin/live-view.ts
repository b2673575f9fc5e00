import type { DownloadState } from '../mirror/fill/download-state.ts';
import type { AdminParts, AdminServer } from './admin-parts.ts';
import { allDownloads } from './downloads.ts';
import { servingReport, type ServingReport } from './serving-report.ts';

type TrafficInAll = Awaited<ReturnType<AdminServer['totals']['inAll']>>;

/** How old what is shown may be: pages that are open together, and their events, ask together. */
const FRESH_MS = 500;

/** What the processes of a server do at the moment, asked once for all who want to know. */
export class LiveView {
  readonly #parts: AdminParts;
  readonly #server: Pick<AdminServer, 'totals' | 'reports'>;
  #asked: { readonly atMs: number; readonly reports: Promise<readonly ServingReport[]> } | undefined;

  constructor(parts: AdminParts, server: Pick<AdminServer, 'totals' | 'reports'>) {
    this.#parts = parts;
    this.#server = server;
  }

  /**
   * Without partial blobs, which would have to be looked for on the disk. This process's own is the first. `sinceMs`: none is
   * from before that, by `performance.now()`.
   */
  reports(sinceMs = performance.now() - FRESH_MS): Promise<readonly ServingReport[]> {
    if (this.#asked === undefined || this.#asked.atMs < sinceMs) {
      this.#asked = { atMs: performance.now(), reports: this.#ask() };
      // A failure is not remembered.
      this.#asked.reports.catch(() => void (this.#asked = undefined));
    }
    return this.#asked.reports;
  }

  /**
   * What is kept of all traffic, and reports of what is not. These are asked for afterwards: what a process keeps meanwhile is
   * missing until the next look, instead of counting twice.
   */
  async traffic(): Promise<{ readonly inAll: TrafficInAll; readonly reports: readonly ServingReport[] }> {
    const inAll = await this.#server.totals.inAll();
    return { inAll, reports: await this.reports(performance.now()) };
  }

  /** Downloads in progress, oldest first. */
  async downloads(): Promise<readonly DownloadState[]> {
    return allDownloads(await this.reports());
  }

  async #ask(): Promise<readonly ServingReport[]> {
    const [own, others] = await Promise.all([
      servingReport(this.#parts, this.#server.totals, 'live'),
      this.#server.reports('live'),
    ]);
    return [own, ...others];
  }
}
