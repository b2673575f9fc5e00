import type { DownloadState } from '../mirror/fill/download-state.ts';
import type { AdminParts, AdminServer } from './admin-parts.ts';
import { allDownloads } from './downloads.ts';
import { servingReport, type ServingReport } from './serving-report.ts';

/** How old what is shown may be: pages that are open together, and their events, ask together. */
const FRESH_MS = 500;

/** What the processes of a server do at the moment, asked once for all who want to know. */
export class LiveView {
  readonly #parts: AdminParts;
  readonly #server: AdminServer;
  #asked: { readonly atMs: number; readonly reports: Promise<readonly ServingReport[]> } | undefined;

  constructor(parts: AdminParts, server: AdminServer) {
    this.#parts = parts;
    this.#server = server;
  }

  /** Without partial blobs, which would have to be looked for on the disk. This process's own is the first. */
  reports(): Promise<readonly ServingReport[]> {
    const nowMs = performance.now();
    if (this.#asked === undefined || nowMs - this.#asked.atMs > FRESH_MS) {
      this.#asked = { atMs: nowMs, reports: this.#ask() };
      // A failure is not remembered.
      this.#asked.reports.catch(() => void (this.#asked = undefined));
    }
    return this.#asked.reports;
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
