// Changes: buttons that say what came of it, dialogs that ask before something is lost, and tasks that go on meanwhile.
import type { ComponentChildren } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import type { TaskDocument, TasksDocument } from '../../admin/documents/tasks.ts';
import { send, session } from '../admin.ts';
import { onEvent } from '../events.ts';
import { useDocument } from '../use-document.ts';
import { announce } from '../announce.ts';
import { bytesText, numberText } from '../format.ts';
import { Ago, Announced, Badge, ShareBar, type Tone } from './text.tsx';

/** Whether this user may change anything. */
export function mayChange(): boolean {
  return session.value?.rights === 'full';
}

/** A button that does something on the server; `act` returns what was done, in words. Absent for who may only read. */
export function ActionButton({
  label,
  about,
  act,
  kind = '',
}: {
  readonly label: string;
  /** What it is about, for who does not see where the button is. */
  readonly about?: string;
  readonly act: () => Promise<string | undefined>;
  readonly kind?: 'main' | 'danger' | 'quiet' | '';
}) {
  const [isBusy, setBusy] = useState(false);
  if (!mayChange()) return null;
  const run = async () => {
    if (isBusy) return;
    setBusy(true);
    await attempt(label, act);
    setBusy(false);
  };
  return (
    <button
      type="button"
      class={kind}
      aria-disabled={isBusy}
      aria-label={about === undefined ? undefined : `${label} ${about}`}
      onClick={() => void run()}
    >
      {label}
    </button>
  );
}

/** Says what came of it. */
async function attempt(label: string, act: () => Promise<string | undefined>): Promise<void> {
  try {
    const text = await act();
    if (text !== undefined) announce(text);
  } catch (error) {
    announce(`${label}: ${messageOf(error)}`, 'failed');
  }
}

/** For people: which member of a request is wrong, they see by themselves. */
function messageOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).replace(/^member [\w.]+: /, '');
}

/** A dialog, open as long as it is in the document. */
export function Dialog({
  title,
  close,
  children,
  confirm,
}: {
  readonly title: string;
  readonly close: () => void;
  readonly children: ComponentChildren;
  /**
   * What its main button does; without it, there is only one to close it. `act` returns what was done, in words; if it
   * fails, the dialog stays and says why.
   */
  readonly confirm?: {
    readonly label: string;
    readonly act: () => Promise<string>;
    readonly isDanger?: boolean;
  };
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [isBusy, setBusy] = useState(false);
  const [problem, setProblem] = useState<string>();
  const isLeaving = useRef(false);
  useEffect(() => {
    const element = dialog.current;
    element?.showModal();
    return () => {
      // So that the focus goes back to where it was.
      isLeaving.current = true;
      element?.close();
    };
  }, []);
  const submit = async (event: Event) => {
    event.preventDefault();
    // Enter in a field of a dialog that has nothing to confirm: what it shows may be there only once.
    if (confirm === undefined || isBusy) return;
    setBusy(true);
    setProblem(undefined);
    try {
      announce(await confirm.act());
      close();
    } catch (error) {
      setProblem(messageOf(error));
    }
    setBusy(false);
  };
  return (
    <dialog ref={dialog} aria-label={title} onClose={() => isLeaving.current || close()}>
      <form onSubmit={event => void submit(event)}>
        <h2>{title}</h2>
        {children}
        {problem !== undefined && (
          <p class="note bad" role="alert">
            {problem}
          </p>
        )}
        <div class="actions">
          {confirm !== undefined && (
            <button type="submit" class={confirm.isDanger ? 'danger' : 'main'} aria-disabled={isBusy}>
              {confirm.label}
            </button>
          )}
          <button type="button" onClick={close}>
            {confirm === undefined ? 'Close' : 'Cancel'}
          </button>
        </div>
      </form>
      <Announced />
    </dialog>
  );
}

/** Begins what takes long: it is seen under `Tasks`, and its end is said, wherever somebody is then. */
export async function begin(path: string, body: object): Promise<string> {
  const task = await send<TaskDocument>(`actions/${path}`, body);
  const forget = onEvent('task', data => {
    // The events of this name have such data.
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion
    const { id, state, message } = data as TaskDocument;
    if (id !== task.id || state === 'running') return;
    forget();
    announce(`${taskName(task)}: ${message ?? state}`, state === 'failed' ? 'failed' : 'done');
  });
  return `Began: ${taskName(task)}`;
}

const VERBS: Readonly<Record<TaskDocument['action'], string>> = {
  pull: 'Pull',
  rm: 'Remove',
  gc: 'Collect garbage',
  scrub: 'Scrub',
};
const TONES: Readonly<Record<TaskDocument['state'], Tone>> = {
  running: 'busy',
  done: 'good',
  failed: 'bad',
  cancelled: 'idle',
};

function taskName({ action, subject }: TaskDocument): string {
  return subject === null ? VERBS[action] : `${VERBS[action]} ${subject}`;
}

/** The tasks that are running or ended lately; nothing if there are none. */
export function Tasks({ actions }: { readonly actions: readonly TaskDocument['action'][] }) {
  const { document } = useDocument<TasksDocument>('tasks', {
    task: ({ entries }, task) => {
      const others = entries.filter(({ id }) => id !== task.id);
      return {
        entries:
          others.length === entries.length
            ? [task, ...entries]
            : entries.map(each => (each.id === task.id ? task : each)),
      };
    },
  });
  const tasks = (document?.entries ?? []).filter(({ action }) => actions.includes(action)).slice(0, 5);
  if (tasks.length === 0) return null;
  return (
    <section class="card">
      <h2>Tasks</h2>
      <ul class="notes">
        {tasks.map(task => (
          <li key={task.id} class="task">
            <Task {...task} />
          </li>
        ))}
      </ul>
    </section>
  );
}

function Task(task: TaskDocument) {
  const { id, state, started, step, items, bytes, totalBytes, message, by } = task;
  const name = taskName(task);
  const cancel = async () => {
    await send(`tasks/${encodeURIComponent(id)}`, {}, 'DELETE');
    return `Cancelled: ${name}`;
  };
  return (
    <>
      <div class="actions">
        <strong>{name}</strong>
        <Badge tone={TONES[state]}>{state}</Badge>
        <span class="faint small">
          <Ago at={started} /> by {by}
        </span>
        {state === 'running' && <ActionButton label="Cancel" about={name} kind="quiet" act={cancel} />}
      </div>
      {state === 'running' && (
        <>
          <ShareBar value={totalBytes ? bytes / totalBytes : undefined} label={name} />
          <p class="small faint">
            {step} {items > 0 && `${numberText(items)} done`} {bytes > 0 && bytesText(bytes)}
          </p>
        </>
      )}
      {message !== null && <p class="small">{message}</p>}
    </>
  );
}
