// Small pieces of text that more than one screen shows: times, digests, states, and commands to copy.
import { type ComponentChildren, Fragment } from 'preact';
import { announce, announcement } from '../announce.ts';
import { nowMs } from '../clock.ts';
import { agoText, namePieces, shortDigest, shortImage } from '../format.ts';

/** A time as people say it, with the exact one on hover. `at`: ISO 8601. */
export function Ago({
  at,
  absent = 'never',
}: {
  readonly at: string | null | undefined;
  readonly absent?: string;
}) {
  if (at === null || at === undefined) return <span class="faint">{absent}</span>;
  const atMs = Date.parse(at);
  return (
    <time dateTime={at} title={exactTime(atMs)}>
      {agoText(atMs, Math.max(nowMs.value, Math.min(atMs, Date.now())))}
    </time>
  );
}

/** `2026-11-30 14:05:09 UTC+1`, in the reader's zone. */
export function exactTime(atMs: number): string {
  return new Date(atMs).toLocaleString('sv', { timeZoneName: 'short' });
}

/** The name of an image or repository: on lines of its own parts if it is long, with the start of its digest; all on hover. */
export function Name({ of }: { readonly of: string }) {
  return (
    <span class="name" title={of}>
      {namePieces(shortImage(of)).map((piece, at) => (
        <Fragment key={String(at)}>
          <wbr />
          {piece}
        </Fragment>
      ))}
    </span>
  );
}

/** The start of a digest; all of it on hover. */
export function ShortDigest({ of }: { readonly of: string }) {
  return <code title={of}>{shortDigest(of)}</code>;
}

export type Tone = 'good' | 'warn' | 'bad' | 'idle' | 'busy';

/** A state in one word; the word says it, the colour only helps. */
export function Badge({ tone, children }: { readonly tone: Tone; readonly children: ComponentChildren }) {
  return <span class={`badge ${tone}`}>{children}</span>;
}

/** A command, with a button that copies it. `label` says what it is for. */
export function CommandLine({ label, text }: { readonly label: string; readonly text: string }) {
  return (
    <div class="command">
      <span class="label">{label}</span>
      <pre tabIndex={0} aria-label={label}>
        {text}
      </pre>
      <button type="button" class="quiet" aria-label={`Copy: ${label}`} onClick={() => void copy(text)}>
        Copy
      </button>
    </div>
  );
}

async function copy(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    announce('Copied');
  } catch {
    // Without https, browsers have no clipboard for pages beyond loopback.
    announce('The browser does not allow the page to copy: select the text instead', 'failed');
  }
}

/** Instead of an empty table: what it means, and what to do next. */
export function Empty({
  title,
  children,
}: {
  readonly title: string;
  readonly children?: ComponentChildren;
}) {
  return (
    <div class="empty">
      <p class="title">{title}</p>
      {children}
    </div>
  );
}

/** A share as a bar with its words; `value` from 0 to 1. */
export function ShareBar({ value, label }: { readonly value: number | undefined; readonly label: string }) {
  return value === undefined ? (
    <progress aria-label={label} />
  ) : (
    <progress aria-label={label} max={1} value={Math.min(1, Math.max(0, value))} />
  );
}

/** What happened last. In a dialog too: nothing behind an open one is shown or read out. */
export function Announced() {
  const { text, kind } = announcement.value ?? {};
  return (
    <div class="toast" role="status">
      {text !== undefined && <p class={kind === 'failed' ? 'failed' : ''}>{text}</p>}
    </div>
  );
}
