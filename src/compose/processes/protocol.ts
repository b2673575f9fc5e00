import type { Socket } from 'node:net';
import type { Config, ConfigOrigin } from '../../config/config.ts';
import type { QuotaCalls } from '../../hosted/shared-quota.ts';
import type { Accepted } from '../../http/acceptor.ts';
import type { Refusal } from '../../http/refusal.ts';
import type { PlaceNews, QueueCalls } from '../../mirror/fill/shared-queue.ts';
import type { BoardCalls } from '../../mirror/shared-flights.ts';
import type { MetricsSnapshot } from '../../ops/metrics.ts';
import type { TlsMaterial } from '../../ops/tls-files.ts';
import type { ReportScope, ServingReport } from '../../admin/serving-report.ts';
import type { Notice } from './news-board.ts';

/** A configuration as it is sent to another process. */
export type SentConfig = Omit<Config, 'origin'> & { readonly origin: Omit<ConfigOrigin, 'sourceOf'> };

/** What a serving process is told when it starts. */
export interface ServingOrders {
  /** From 1; a process that replaces another gets its number. */
  readonly number: number;
  /** How many processes serve. */
  readonly processes: number;
  /** When the server started, epoch ms. */
  readonly startedAtMs: number;
  readonly config: SentConfig;
  readonly tls: TlsMaterial | undefined;
}

/** What a serving process answers. */
export interface ServingAnswers extends PlaceNews {
  take(accepted: Accepted, socket: Socket | undefined): void;
  /** Follows `take`, which may not have arrived. */
  passed(id: number): void;
  news(notice: Notice): void;
  renewTls(material: TlsMaterial): void;
  /** Applies the configuration, which was checked; rejects if that fails. */
  reload(config: SentConfig): Promise<void>;
  reopenAudit(): Promise<void>;
  /** Answers as soon as its event loop runs. */
  lives(): void;
  /** Why it cannot serve now; `undefined` if it can. */
  notReady(): Promise<string | undefined>;
  /** As in `/readyz`. */
  problems(): Promise<readonly string[]>;
  report(scope: ReportScope): Promise<ServingReport>;
  metrics(): Promise<MetricsSnapshot>;
  /** Finishes within the deadline (ms), and ends. */
  close(deadlineMs: number): void;
}

/** What the process that starts them answers. */
export interface ParentAnswers extends QueueCalls, QuotaCalls, BoardCalls {
  orders(): ServingOrders;
  serving(): void;
  /** The process cannot start, and ends when this was answered. */
  failed(reason: string): void;
  took(id: number): void;
  refused(id: number): void;
  left(ids: readonly number[]): void;
  news(notice: Notice): void;
  /** What its clients were refused. */
  refusals(refusals: readonly Refusal[]): void;
  makeRoom(bytes: number): Promise<void>;
}

/** Without logins for the operations port, on which no other process answers. */
export function sentConfig({ origin, ...config }: Config): SentConfig {
  const { sourceOf: _sourceOf, ...rest } = origin;
  return { ...config, admins: [], origin: rest };
}

/** The configuration in the process that it was sent to, which says of no key where it was set. */
export function receivedConfig({ origin, ...config }: SentConfig): Config {
  return { ...config, origin: { ...origin, sourceOf: () => 'the configuration' } };
}
