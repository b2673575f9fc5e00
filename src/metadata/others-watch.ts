import type { Log } from '../lib/log.ts';
import { EndCounts } from './ended-rights.ts';
import type { Topic } from './metadata-store.ts';

/** A topic, and how often something was announced under it. */
export interface TopicVersion {
  readonly topic: Topic;
  readonly version: number;
}

/** What processes tell each other through the index, at one moment. */
export interface Told {
  readonly versions: readonly TopicVersion[];
  /** How many ends of rights there have been. */
  readonly ends: number;
}

/** What other processes tell through the index: read once a second, for who listens and for who compares. */
export class OthersWatch {
  readonly endCounts = new EndCounts();
  readonly #read: () => Promise<Told>;
  readonly #log: Log;
  readonly #seen = new Map<Topic, number>();
  readonly #listeners = new Set<{ readonly topic: Topic; readonly listener: () => void }>();

  constructor(read: () => Promise<Told>, log: Log) {
    this.#read = read;
    this.#log = log;
  }

  /** Ignores everything that was announced until now. */
  async begin(): Promise<void> {
    const { versions, ends } = await this.#read();
    this.endCounts.note(ends);
    versions.forEach(({ topic, version }) => this.#seen.set(topic, version));
  }

  /** Call once a second. */
  beat(): void {
    this.look().catch((error: unknown) =>
      this.#log.warn({ err: error }, 'what other processes have announced could not be read'),
    );
  }

  /** Calls the listeners for what others have announced since the last call. */
  async look(): Promise<void> {
    const { versions, ends } = await this.#read();
    this.endCounts.note(ends);
    for (const { topic, version } of versions) {
      if (version === (this.#seen.get(topic) ?? 0)) continue;
      this.#seen.set(topic, version);
      this.#tell(topic);
    }
  }

  /** Call when this process has announced something, which led to `version`. */
  sent(topic: Topic, version: number): void {
    // Unless another process has announced something in between, our own change is not news.
    if (version === (this.#seen.get(topic) ?? 0) + 1) this.#seen.set(topic, version);
  }

  on(topic: Topic, listener: () => void): () => void {
    const entry = { topic, listener };
    this.#listeners.add(entry);
    return () => void this.#listeners.delete(entry);
  }

  #tell(topic: Topic): void {
    for (const entry of this.#listeners) {
      if (entry.topic !== topic) continue;
      try {
        entry.listener();
      } catch (error) {
        this.#log.error({ err: error, topic }, 'a listener for notifications failed');
      }
    }
  }
}
