// A document of the server while it is shown: asked for once, then updated by events. While nothing changes, nothing is
// asked.
import { useEffect, useRef, useState } from 'preact/hooks';
import type { EventData, EventName } from '../admin/documents/events.ts';
import { ask } from './admin.ts';
import { onEvent } from './events.ts';

/** A document is asked for again at most this often, however often it changes. */
const AGAIN_MS = 1_000;
/** One that takes the server long is asked for during a tenth of the time, but once a minute. */
const AGAIN_TIMES = 10;
const MAX_AGAIN_MS = 60_000;

/** A document that is being shown. */
export interface ShownDocument<Document> {
  /** The last one that arrived, even if a later request failed. */
  readonly document: Document | undefined;
  /** Why there is none, or no newer one. */
  readonly problem: string | undefined;
  /** Asks for it again. */
  readonly again: () => void;
}

/**
 * What an event makes of a document: the new one, or `undefined` if it has to be asked for again. Events that are not
 * named do not concern it.
 */
export type Updates<Document> = {
  readonly [Name in EventName]?: (document: Document, data: EventData<Name>) => Document | undefined;
};

/** Fetches a document; `until` aborts when it is no longer shown. */
export type Load<Document> = (path: string, until: AbortSignal) => Promise<Document>;

/** While somebody types a search, not each letter is one. */
const TYPING_MS = 200;

/**
 * The document at `path` below `/admin/v1/`, kept up to date while the component is shown; that of the path before until
 * that of a new one arrives. `updates` and `load` are the same for each path.
 */
export function useDocument<Document>(
  path: string,
  updates: Updates<Document> = {},
  load: Load<Document> = ask,
): ShownDocument<Document> {
  const [shown, show] = useState<ShownDocument<Document>>(NOTHING);
  const isFirst = useRef(true);
  useEffect(() => {
    const following = new Following<Document>(until => load(path, until), updates, show);
    following.begin(isFirst.current ? 0 : TYPING_MS);
    isFirst.current = false;
    return () => following.close();
  }, [path]);
  return shown;
}

/** How often what is not final is asked for. */
const UNFINISHED_MS = 2_000;

/**
 * Asks for the document again after a while, for as long as it says itself that another one will soon be better; also if it
 * could not be fetched meanwhile.
 */
export function useAgain<Document>(shown: ShownDocument<Document>, isUnfinished: boolean): void {
  useEffect(() => {
    const timer = isUnfinished ? setTimeout(shown.again, UNFINISHED_MS) : undefined;
    return () => clearTimeout(timer);
  }, [shown]);
}

const NOTHING = { document: undefined, problem: undefined, again: () => {} };

class Following<Document> {
  readonly #loadDocument: (until: AbortSignal) => Promise<Document>;
  readonly #show: (shown: ShownDocument<Document>) => void;
  readonly #ended = new AbortController();
  readonly #forget: readonly (() => void)[];
  #document: Document | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isAsking = false;
  #isOutdated = false;
  /** When it may be asked for again because something has changed. */
  #nextAtMs = 0;

  constructor(
    load: (until: AbortSignal) => Promise<Document>,
    updates: Updates<Document>,
    show: (shown: ShownDocument<Document>) => void,
  ) {
    this.#loadDocument = load;
    this.#show = show;
    this.#forget = [...handlersOf(updates), ['reset', () => undefined] as const].map(([name, update]) =>
      onEvent(name, data => this.#apply(update, data)),
    );
  }

  /** Asks for the first time. */
  begin(afterMs: number): void {
    this.#timer = setTimeout(() => void this.#load(), afterMs);
  }

  close(): void {
    this.#ended.abort();
    clearTimeout(this.#timer);
    for (const forget of this.#forget) forget();
  }

  /** Soon, and once for all that happens until then. */
  #ask(): void {
    if (this.#isAsking) {
      this.#isOutdated = true;
      return;
    }
    const waitMs = Math.max(0, this.#nextAtMs - performance.now());
    this.#timer ??= setTimeout(() => void this.#load(), waitMs);
  }

  /** At once: somebody waits for it. */
  #again(): void {
    this.#nextAtMs = 0;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#ask();
  }

  #apply(update: Update<Document>, data: unknown): void {
    // An answer that is on its way may be older than the event.
    const updated = this.#isAsking || this.#document === undefined ? undefined : update(this.#document, data);
    if (updated === undefined) this.#ask();
    else this.#set(updated);
  }

  async #load(): Promise<void> {
    this.#timer = undefined;
    this.#isAsking = true;
    this.#isOutdated = false;
    const begunMs = performance.now();
    this.#nextAtMs = begunMs + AGAIN_MS;
    try {
      this.#set(await this.#loadDocument(this.#ended.signal));
    } catch (error) {
      if (this.#ended.signal.aborted) return;
      this.#set(this.#document, error instanceof Error ? error.message : String(error));
    }
    const restMs = Math.min(MAX_AGAIN_MS, AGAIN_TIMES * (performance.now() - begunMs));
    // Unless somebody has asked for the next one meanwhile.
    if (this.#nextAtMs > 0) this.#nextAtMs = begunMs + Math.max(AGAIN_MS, restMs);
    this.#isAsking = false;
    if (this.#isOutdated) this.#ask();
  }

  #set(document: Document | undefined, problem?: string): void {
    this.#document = document;
    this.#show({ document, problem, again: () => this.#again() });
  }
}

type Update<Document> = (document: Document, data: unknown) => Document | undefined;

/** TypeScript does not see that each name comes with its own data. */
function handlersOf<Document>(
  updates: Updates<Document>,
): readonly (readonly [EventName, Update<Document>])[] {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion
  return Object.entries(updates) as [EventName, Update<Document>][];
}
