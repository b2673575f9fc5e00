import type { Log } from '../lib/log.ts';
import { type PacedEvents, PacedLines } from '../lib/paced-lines.ts';
import type { SecretSlot } from './tenant-secrets.ts';

type Change = Pick<SecretSlot, 'name' | 'source' | 'state' | 'reason' | 'loadedAtMs'>;

/** What a Secret has become. */
export interface ChangedSecret {
  readonly name: string;
  readonly state: 'loaded' | 'missing' | 'malformed';
  readonly reason?: string | undefined;
}

export type NoteSecret = (tenant: string, secret: ChangedSecret) => void;

/**
 * Logs changes of tenants' Secrets. Their owners may change them a thousand times a second, so there is at most one
 * line per tenant and state in a minute.
 */
export class SecretChanges {
  readonly #log: Log;
  readonly #lines: PacedLines<Change>;
  readonly #isReported: (tenant: string) => boolean;

  readonly #noteSecret: NoteSecret;

  constructor(
    log: Log,
    isReported: (tenant: string) => boolean = () => true,
    noteSecret: NoteSecret = () => {},
  ) {
    this.#log = log;
    this.#noteSecret = noteSecret;
    this.#isReported = isReported;
    this.#lines = new PacedLines((key, told) => this.#write(key.slice(key.indexOf(' ') + 1), told));
  }

  /**
   * `isFirst`: the tenant was not known before, so Secrets that were read are no news. That none can be read now is
   * reported by the source, since it concerns many tenants at once.
   */
  note(tenant: string, changes: readonly Change[], isFirst: boolean): void {
    if (!this.#isReported(tenant)) return;
    for (const state of ['loaded', 'missing', 'malformed'] as const) {
      const some = changes.filter(change => change.state === state);
      if (isFirst && state === 'loaded') {
        if (some.length > 0) this.#log.debug({ tenant, count: some.length }, 'Secrets were read');
      } else {
        this.#lines.noteAll(`${state} ${tenant}`, some);
        for (const { name, reason } of some) this.#noteSecret(tenant, { name, state, reason });
      }
    }
  }

  close(): void {
    this.#lines.close();
  }

  #write(tenant: string, { events, count }: PacedEvents<Change>): void {
    const [first] = events;
    if (first === undefined) return;
    const told = events.map(({ name, source, reason }) => ({ secretName: name, source, reason }));
    const fields = count === 1 ? { tenant, ...told[0] } : { tenant, secrets: told, count };
    const log = this.#log;
    switch (first.state) {
      case 'loaded':
        log.info(fields, count === 1 ? 'a Secret was read' : 'Secrets were read');
        break;
      case 'missing':
        log.warn(
          fields,
          count === 1
            ? 'a Secret is missing: create it, or remove it from the tenant'
            : 'Secrets are missing: create them, or remove them from the tenant',
        );
        break;
      case 'malformed': {
        const words = count === 1 ? 'a Secret is malformed' : 'Secrets are malformed';
        const isKept = events.every(({ loadedAtMs }) => loadedAtMs !== undefined);
        log.error(
          fields,
          `${words}: ${isKept ? 'the last good version stays in use' : 'not used until corrected'}`,
        );
        break;
      }
    }
  }
}
