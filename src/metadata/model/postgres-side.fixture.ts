// A side of a model test: an index in PostgreSQL.
import { setTimeout as delay } from 'node:timers/promises';
import { silentLog } from '../../lib/log.ts';
import type { MetadataStore } from '../metadata-store.ts';
import { openPostgresMetadataStore } from '../postgres-metadata-store.ts';
import { emptyIndex } from '../../../test/support/postgres.ts';
import { openPostgresSurvey } from '../postgres-survey.ts';
import { Database } from '../postgres/database.ts';
import type { PostgresSettings } from '../postgres/postgres-settings.ts';
import type { Side } from './side.fixture.ts';

/** An empty index in a PostgreSQL database, for all histories one after the other. */
export class PostgresSides {
  readonly #settings: PostgresSettings;
  readonly #folder: string;
  readonly #database: Database;

  private constructor(settings: PostgresSettings, folder: string) {
    this.#settings = settings;
    this.#folder = folder;
    this.#database = new Database({ ...settings, poolSize: 1 });
  }

  /** `folder`: for the locks of its processes. */
  static async open(settings: PostgresSettings, folder: string): Promise<PostgresSides> {
    const sides = new PostgresSides(settings, folder);
    await (await sides.#openStore()).close();
    return sides;
  }

  /** Everything that an earlier one has left is gone. */
  async openSide(): Promise<Side> {
    await emptyIndex(this.#settings);
    const stores = [await this.#openStore(), await this.#openStore()] as const;
    const survey = await openPostgresSurvey(this.#settings);
    return {
      stores,
      survey,
      leases: new Map(),
      objects: new Set(),
      records: new Map(),
      settle: async () => {
        while ((await this.#database.row('SELECT 1 FROM @removed_repositories')) !== undefined)
          await delay(2);
      },
      close: async () => {
        await survey.close();
        for (const store of stores) await store.close();
      },
    };
  }

  close(): Promise<void> {
    return this.#database.close();
  }

  #openStore(): Promise<MetadataStore> {
    const folder = { path: this.#folder, id: 'folder' };
    return openPostgresMetadataStore(this.#settings, { log: silentLog, folder });
  }
}
