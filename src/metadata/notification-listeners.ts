import type { Log } from '../lib/log.ts';
import type { Topic } from './metadata-store.ts';

/** A topic, and how often something was announced under it. */
export interface TopicVersion {
  readonly topic: Topic;
  readonly version: number;
}

/** Who listens for what other processes announce, and what is known of it already. */
export class NotificationListeners {
  readonly #log: Log;
  readonly #seen = new Map<Topic, number>();
  readonly #listeners = new Set<{ readonly topic: Topic; readonly listener: () => void }>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** Ignores everything that was announced until now. */
  begin(versions: readonly TopicVersion[]): void {
    versions.forEach(({ topic, version }) => this.#seen.set(topic, version));
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

  /** Calls the listeners for what others have announced since the last call. */
  look(versions: readonly TopicVersion[]): void {
    for (const { topic, version } of versions) {
      if (version === (this.#seen.get(topic) ?? 0)) continue;
      this.#seen.set(topic, version);
      this.#tell(topic);
    }
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
