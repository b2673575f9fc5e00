import { sizeText } from '../lib/units.ts';
import type { Progress, RunOptions } from '../upkeep/stores.ts';
import type { Parts } from '../compose/parts.ts';
import type { ExitCode, Input, Io } from './command.ts';
import { interruptible } from './interruptible.ts';
import { type ProgressItem, progressForm, ProgressView } from './progress.ts';
import { withParts, type WithPartsOptions } from './with-parts.ts';

/** What a command passes to upkeep. */
export type UpkeepRun = Required<RunOptions> & {
  /** Sets the total number of bytes, once it is known. */
  readonly expect: (bytes: number) => void;
  /** Prints results, above the progress. */
  readonly out: (text: string) => void;
  /** Returns a function that reports which process is doing `work`, and is waited for. */
  readonly waitingFor: (work: string) => (maxMs: number, holder: string | undefined) => void;
};

/** Runs upkeep for a command: shows the progress and, if it is stopped, what was done. */
export async function withUpkeep(
  input: Input,
  io: Io,
  act: (parts: Parts, run: UpkeepRun) => Promise<ExitCode>,
  options: WithPartsOptions = {},
): Promise<ExitCode> {
  const dryRun = input.options['dryRun'] === true;
  const view = new ProgressView(io, progressForm({ json: false }));
  const steps = new Steps(view);
  const soFar = () => `${dryRun ? 'found' : 'done'} so far: ${steps.text}`;
  const runOf = (signal: AbortSignal): UpkeepRun => ({
    dryRun,
    signal,
    onProgress: progress => steps.show(progress),
    expect: bytes => steps.expect(bytes),
    out: text => view.io.out(text),
    waitingFor:
      what =>
      (maxMs, holder = 'another process') =>
        view.io.err(
          `${holder} is ${what}: waiting for it to finish, or to be considered dead, for up to ${Math.ceil(maxMs / 1000)} s\n`,
        ),
  });
  const work = (signal: AbortSignal) =>
    withParts(input, view.io, parts => act(parts, runOf(signal)), options);
  try {
    return await interruptible(work, soFar);
  } finally {
    view.close();
  }
}

/** The steps of upkeep, in order. */
class Steps {
  readonly #view: ProgressView;
  readonly #latest = new Map<string, Progress>();
  #item: ProgressItem | undefined;
  #expectedBytes = 0;

  constructor(view: ProgressView) {
    this.#view = view;
  }

  expect(bytes: number): void {
    this.#expectedBytes = bytes;
  }

  show(progress: Progress): void {
    const last = this.#latest.get(progress.step);
    if (last === undefined || this.#item === undefined) {
      this.#item?.drop();
      this.#item = this.#view.begin(progress.step);
      this.#item.expect(this.#expectedBytes);
    }
    this.#item.advance(progress.bytes - (last?.bytes ?? 0), progress.items - (last?.items ?? 0));
    this.#latest.set(progress.step, progress);
  }

  get text(): string {
    const done = [...this.#latest.values()].filter(({ items }) => items > 0);
    const texts = done.map(({ step, items, bytes }) => `${items} ${step}, ${sizeText(bytes)}`);
    return texts.length === 0 ? 'nothing' : texts.join('; ');
  }
}
