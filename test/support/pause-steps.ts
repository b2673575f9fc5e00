// The steps in which processes are stopped, and how often each was met.
import type { Fault, MetFault } from './syscall-shim.ts';

export type Step = Pick<Fault, 'call' | 'path' | 'phase'>;
export type Steps = Readonly<Record<string, Step>>;

/** The ingest of what comes into the store, and what it is called here. */
const INTAKES = { 'upload-': 'push', 'fill-': 'download', 'import-': 'import' } as const;
const INTAKE = /\/ingest\/(upload-|fill-|import-)/;

/** Of something that comes in. A rename is not known by its path before it is met. */
function intakeSteps(ingest: keyof typeof INTAKES): Steps {
  const what = INTAKES[ingest];
  const path = `/ingest/${ingest}`;
  return {
    [`${what}: in mid-write`]: { call: 'write', path },
    [`${what}: behind a write`]: { call: 'write', path, phase: 'after' },
    [`${what}: before a sync`]: { call: 'sync', path },
    [`${what}: before a rename`]: { call: 'rename', path: '/blobs/sha256/' },
    [`${what}: before the row`]: { call: 'rename', path: '/blobs/sha256/', phase: 'after' },
  };
}

/** And of what takes over from one that stands still, or gives up. */
function givenUpSteps(ingest: keyof typeof INTAKES): Steps {
  const what = INTAKES[ingest];
  const path = `/ingest/${ingest}`;
  return {
    [`${what}: before a truncation`]: { call: 'truncate', path },
    [`${what}: before an unlink`]: { call: 'unlink', path },
    [`${what}: before the copy of a takeover`]: { call: 'open', path: '.copy' },
    [`${what}: behind the copy of a takeover`]: { call: 'rename', path: '.copy -> ' },
  };
}

const transactionSteps = (what: string): Steps => ({
  [`${what}: before a transaction`]: { call: 'lock', path: 'index.db-shm' },
  [`${what}: within a transaction`]: { call: 'write', path: 'index.db-wal' },
});

/** Rows are gone by then, files are not. */
const removalSteps = (what: string): Steps => ({
  [`${what}: between row and file`]: { call: 'rename', path: '/ingest/gone-' },
  [`${what}: before an unlink`]: { call: 'unlink', path: '/ingest/gone-' },
});

export const SERVER_STEPS: Steps = {
  ...intakeSteps('upload-'),
  ...givenUpSteps('upload-'),
  ...intakeSteps('fill-'),
  ...givenUpSteps('fill-'),
  ...transactionSteps('server'),
  'server: before the sync of a transaction': { call: 'sync', path: 'index.db-wal' },
};

export const COMMAND_STEPS = {
  gc: { ...transactionSteps('gc'), ...removalSteps('gc') },
  discard: { 'discard: before an unlink': { call: 'unlink', path: '/ingest/upload-' } },
  eviction: { ...transactionSteps('eviction'), ...removalSteps('eviction') },
  scrub: {
    'scrub: before a read': { call: 'open', path: '/blobs/sha256/' },
    ...removalSteps('scrub'),
  },
  import: { ...intakeSteps('import-'), ...transactionSteps('import') },
  pull: { 'pull: in mid-write': { call: 'write', path: '/ingest/fill-' }, ...transactionSteps('pull') },
  rm: transactionSteps('rm'),
} as const satisfies Readonly<Record<string, Steps>>;

export type CommandName = keyof typeof COMMAND_STEPS;

export const ALL_STEPS: readonly string[] = [SERVER_STEPS, ...Object.values(COMMAND_STEPS)].flatMap(steps =>
  Object.keys(steps),
);

/** Counts the steps that were met by a stop, in all stores together. */
export class StepCounter {
  readonly met = new Map<string, number>();
  readonly #tried = new Map<string, number>();

  /** The one of `steps` whose turn it is: those that were met least come first, but not for ever. */
  next(steps: Steps): [kind: string, step: Step] {
    const [next] = Object.entries(steps).toSorted(([one], [other]) => this.#turn(one) - this.#turn(other));
    if (next === undefined) throw new Error('no steps');
    const [kind] = next;
    this.#tried.set(kind, (this.#tried.get(kind) ?? 0) + 1);
    return next;
  }

  /** The command that has the step whose turn it is. */
  nextOf(names: readonly CommandName[]): CommandName {
    const turn = (name: CommandName) =>
      Math.min(...Object.keys(COMMAND_STEPS[name]).map(kind => this.#turn(kind)));
    const [next] = names.toSorted((one, other) => turn(one) - turn(other));
    if (next === undefined) throw new Error('no commands');
    return next;
  }

  #turn(kind: string): number {
    return 2 * (this.met.get(kind) ?? 0) + (this.#tried.get(kind) ?? 0);
  }

  /** Counts a stop at the step `kind`; where that one's path is not of its intake alone, for the intake that was met. */
  meet(kind: string, { path }: MetFault): void {
    const ingest = INTAKE.exec(path)?.[1] as keyof typeof INTAKES | undefined;
    const isIntake = Object.values(INTAKES).some(what => kind.startsWith(`${what}: `));
    // Another rename of a blob's file: out of its place.
    if (isIntake && ingest === undefined && !kind.endsWith('transaction')) return;
    const counted = isIntake && ingest !== undefined ? kind.replace(/^[^:]+/, INTAKES[ingest]) : kind;
    this.met.set(counted, (this.met.get(counted) ?? 0) + 1);
  }
}
