import type { Socket } from 'node:net';

/** Takes one value and returns another, perhaps later. Both are cloned. A method, so that the value may be narrower. */
type Answer = { answer(value: unknown, socket: Socket | undefined): unknown }['answer'];

/** What one side answers, by name. */
export interface Answers {
  readonly [name: string]: Answer;
}

type Names<Theirs> = keyof Theirs & string;
type Value<Theirs, Name extends keyof Theirs> = Theirs[Name] extends (
  value: infer V,
  ...rest: never[]
) => unknown
  ? V
  : never;
type Result<Theirs, Name extends keyof Theirs> = Theirs[Name] extends (...values: never[]) => infer R
  ? Awaited<R>
  : never;

/** The end of a pair of processes at which messages are sent and received: `process`, or a child. */
export interface ChannelEnd {
  readonly connected: boolean;
  send?(message: object, socket: Socket | undefined, options: object, onSent: () => void): unknown;
  on(event: 'message', listener: (message: Message, socket: Socket | undefined) => void): unknown;
  on(event: 'disconnect', listener: () => void): unknown;
}

type Message =
  | { readonly tell: string; readonly value: unknown }
  | { readonly ask: string; readonly value: unknown; readonly id: number }
  | { readonly answerTo: number; readonly value: unknown }
  | { readonly answerTo: number; readonly failure: string };

/** The other process has ended, or closed the channel, before it answered. */
export class ChannelClosed extends Error {
  override readonly name = 'ChannelClosed';
}

interface Asked {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/**
 * Messages between a process and its child, in order, over the channel that Node opens for `fork`. `Theirs` is what the
 * other side answers. Values are cloned (structured clone): they have no functions, and no classes of ours.
 */
export class Channel<Theirs> {
  readonly #end: ChannelEnd;
  readonly #answers: Answers;
  readonly #asked = new Map<number, Asked>();
  #lastId = 0;

  /** `answers`: what this side does when it is told or asked. */
  constructor(end: ChannelEnd, answers: Answers) {
    this.#end = end;
    this.#answers = answers;
    end.on('message', (message, socket) => this.#receive(message, socket));
    end.on('disconnect', () => this.#closed());
  }

  /**
   * Sends what needs no answer, perhaps with a socket, which stays open on this side, too. Lost if the other process is
   * gone.
   */
  tell<Name extends Names<Theirs>>(name: Name, value: Value<Theirs, Name>, socket?: Socket): void {
    this.#send({ tell: name, value }, socket);
  }

  /** The answer of the other side. Rejects with the message of its error, or with ChannelClosed. */
  async ask<Name extends Names<Theirs>>(
    name: Name,
    value: Value<Theirs, Name>,
  ): Promise<Result<Theirs, Name>> {
    if (!this.#end.connected) throw gone();
    this.#lastId += 1;
    const id = this.#lastId;
    const answered = new Promise<Result<Theirs, Name>>((resolve, reject) => {
      this.#asked.set(id, { resolve, reject });
    });
    this.#send({ ask: name, value, id });
    return answered;
  }

  #send(message: Message, socket?: Socket): void {
    // An error is followed by `disconnect`.
    if (this.#end.connected) this.#end.send?.(message, socket, { keepOpen: true }, () => {});
  }

  #receive(message: Message, socket: Socket | undefined): void {
    if ('tell' in message) {
      this.#answers[message.tell]?.(message.value, socket);
    } else if ('ask' in message) {
      void this.#answer(message);
    } else {
      const asked = this.#asked.get(message.answerTo);
      this.#asked.delete(message.answerTo);
      if ('failure' in message) asked?.reject(new Error(message.failure));
      else asked?.resolve(message.value);
    }
  }

  async #answer({ ask, value, id }: Extract<Message, { readonly ask: string }>): Promise<void> {
    try {
      const answer = this.#answers[ask];
      if (answer === undefined) throw new TypeError(`nothing is called ${ask}`);
      this.#send({ answerTo: id, value: await answer(value, undefined) });
    } catch (error) {
      this.#send({ answerTo: id, failure: error instanceof Error ? error.message : String(error) });
    }
  }

  #closed(): void {
    for (const asked of this.#asked.values()) asked.reject(gone());
    this.#asked.clear();
  }
}

function gone(): ChannelClosed {
  return new ChannelClosed('the other process is gone');
}
