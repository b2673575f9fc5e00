import type { News } from '../../lib/news.ts';

/** News of one topic, for all processes of this server. */
export interface Notice {
  readonly topic: string;
  readonly news: unknown;
}

/** A method, so that it may take news of one kind only. */
type Listener = { hear(news: unknown): void }['hear'];

/** Passes news between the parts of this process and the other processes. */
export class NewsBoard {
  readonly #send: (notice: Notice) => void;
  readonly #listeners = new Map<string, Set<Listener>>();

  /** `send` passes a notice on to the other processes. */
  constructor(send: (notice: Notice) => void) {
    this.#send = send;
  }

  /** The news of `topic`; everybody uses it for news of the same type. */
  of<T>(topic: string): News<T> {
    return {
      tell: news => this.#send({ topic, news }),
      listen: listener => {
        const listeners = this.#listeners.get(topic) ?? new Set<Listener>();
        this.#listeners.set(topic, listeners.add(listener));
        return () => void listeners.delete(listener);
      },
    };
  }

  /** Tells the parts of this process what another has sent. */
  post({ topic, news }: Notice): void {
    for (const listener of this.#listeners.get(topic) ?? []) listener(news);
  }
}
