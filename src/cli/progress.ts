import { sizeText } from '../lib/units.ts';
import type { Io } from './command.ts';

/** How progress is shown: moving bars on a terminal, a line now and then elsewhere, or JSON for programs. */
export type ProgressForm = 'bars' | 'lines' | 'json';

/** An operation in progress, such as pulling an image. */
export interface ProgressItem {
  /** Increases the expected total; negative if less turns out to be needed. */
  expect(bytes: number): void;
  /** `items` is for an operation that consists of many. */
  advance(bytes: number, items?: number): void;
  /** Ends it with a text. */
  end(outcome: 'done' | 'failed', text: string): void;
  /** Ends it without a text. */
  drop(): void;
}

/** Often enough to look smooth. */
const REDRAW_MS = 100;
/** For logs, where a line now and then shows that it continues. */
const LINE_MS = 10_000;
/** On a terminal of eighty columns the name is more useful than a long bar. */
const BAR_WIDTH = { narrow: 10, wide: 24 };
const WIDE_COLUMNS = 100;
/** Enough for `1023 MiB of 1023 MiB, 1023 MiB/s, 9999 s left`. */
const STATUS_WIDTH = 48;
/** `blobs checked` fits on any terminal. */
const NAME_WIDTH = { least: 13, most: 48 };
const MAX_BARS = 16;
/** The rate is that of the last ten seconds: what was skipped or cached before says nothing about the rest. */
const RATE_WINDOW_MS = 10_000;
/** How often bytes are recorded within it. */
const NOTE_MS = 250;
/** Until then a rate is no basis for an estimate. */
const STEADY_AFTER_MS = 3_000;
/** For a terminal that does not report its size (VT100). */
const USUAL_SCREEN: Screen = { columns: 80, rows: 24 };

/** Bars are drawn only while no line wraps and none scrolls away. */
interface Screen {
  readonly columns: number;
  readonly rows: number;
}

/** Shows progress on standard error; standard output is for the result (and for JSON). */
export class ProgressView {
  /** Writes above the bars, which would otherwise hide what was written. */
  readonly io: Io = {
    out: text => this.#aside(() => this.#io.out(text)),
    err: text => this.#aside(() => this.#io.err(text)),
  };
  readonly #io: Io;
  readonly #form: ProgressForm;
  readonly #nowMs: () => number;
  readonly #screen: () => Screen;
  readonly #running = new Set<Item>();
  #drawnLines = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    io: Io,
    form: ProgressForm,
    nowMs: () => number = () => performance.now(),
    screen: () => Screen = screenOfTerminal,
  ) {
    this.#io = io;
    this.#form = form;
    this.#nowMs = nowMs;
    this.#screen = screen;
  }

  begin(name: string): ProgressItem {
    const item = new Item(name, this.#nowMs, {
      end: (outcome, text) => this.#end(item, outcome, text),
      drop: () => void this.#running.delete(item),
    });
    this.#running.add(item);
    if (this.#form === 'json') this.#event({ event: 'begin', name });
    if (this.#form === 'bars') this.#timer ??= setInterval(() => this.#draw(), REDRAW_MS).unref();
    if (this.#form === 'lines') this.#timer ??= setInterval(() => this.#tell(), LINE_MS).unref();
    return item;
  }

  /** Prints a text above the bars. */
  say(text: string): void {
    this.io.err(`${text}\n`);
  }

  /** Prints one line of JSON, if JSON is wanted. */
  event(event: object): void {
    if (this.#form === 'json') this.#event(event);
  }

  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#clear();
  }

  /** Lets `write` write while no bars are shown. */
  #aside(write: () => void): void {
    this.#clear();
    write();
    this.#draw();
  }

  #end(item: Item, outcome: 'done' | 'failed', text: string): void {
    this.#running.delete(item);
    const ms = Math.round(this.#nowMs() - item.beganMs);
    if (this.#form === 'json') this.#event({ event: outcome, name: item.name, bytes: item.bytes, ms, text });
    else this.say(`${outcome === 'done' ? '✓' : '✗'} ${item.name}: ${text}${summary(item.bytes, ms)}`);
  }

  #event(event: object): void {
    this.#io.out(`${JSON.stringify(event)}\n`);
  }

  #draw(): void {
    if (this.#form !== 'bars') return;
    this.#clear();
    const { columns, rows } = this.#screen();
    // One line for the rest, and one for the cursor.
    const shown = [...this.#running].slice(0, Math.max(1, Math.min(MAX_BARS, rows - 2)));
    const rest = this.#running.size - shown.length;
    const lines = shown.map(item => barText(item, columns));
    if (rest > 0) lines.push(`  and ${rest} more`);
    if (lines.length > 0) this.#io.err(`${lines.join('\n')}\n`);
    this.#drawnLines = lines.length;
  }

  #tell(): void {
    for (const item of [...this.#running].slice(0, MAX_BARS))
      this.#io.err(`  ${item.name}: ${figuresText(item)}\n`);
  }

  #clear(): void {
    if (this.#drawnLines > 0) this.#io.clear?.(this.#drawnLines);
    this.#drawnLines = 0;
  }
}

class Item implements ProgressItem {
  readonly name: string;
  readonly beganMs: number;
  readonly end: ProgressItem['end'];
  readonly drop: ProgressItem['drop'];
  bytes = 0;
  items = 0;
  expectedBytes = 0;
  readonly #nowMs: () => number;
  /** Bytes at points of time, oldest first: the last one before the window of the rate, and those in it. */
  readonly #noted: { readonly atMs: number; readonly bytes: number }[];

  constructor(name: string, nowMs: () => number, { end, drop }: Pick<ProgressItem, 'end' | 'drop'>) {
    this.name = name;
    this.beganMs = nowMs();
    this.#nowMs = nowMs;
    this.#noted = [{ atMs: this.beganMs, bytes: 0 }];
    this.end = end;
    this.drop = drop;
  }

  expect(bytes: number): void {
    this.expectedBytes += bytes;
  }

  advance(bytes: number, items = 0): void {
    const atMs = this.#nowMs();
    this.bytes += bytes;
    this.items += items;
    if (atMs - (this.#noted.at(-1)?.atMs ?? 0) >= NOTE_MS) this.#noted.push({ atMs, bytes: this.bytes });
    this.#forget(atMs);
  }

  /** Recent bytes per second. */
  get rate(): number {
    const nowMs = this.#nowMs();
    this.#forget(nowMs);
    const { atMs, bytes } = this.#noted[0] ?? { atMs: this.beganMs, bytes: 0 };
    const isIdle = nowMs - (this.#noted.at(-1)?.atMs ?? 0) > RATE_WINDOW_MS;
    return isIdle ? 0 : Math.max(0, this.bytes - bytes) / Math.max(0.001, (nowMs - atMs) / 1000);
  }

  /** The remaining seconds at the recent rate; `undefined` if unknown. */
  get secondsLeft(): number | undefined {
    const { rate, bytes, expectedBytes } = this;
    const isKnown = rate > 0 && expectedBytes > bytes && this.#nowMs() - this.beganMs >= STEADY_AFTER_MS;
    return isKnown ? Math.ceil((expectedBytes - bytes) / rate) : undefined;
  }

  #forget(nowMs: number): void {
    while ((this.#noted[1]?.atMs ?? nowMs) <= nowMs - RATE_WINDOW_MS) this.#noted.shift();
  }
}

function barText(item: Item, columns: number): string {
  const { name, bytes, expectedBytes } = item;
  // Without a known end there is no bar.
  const barWidth = expectedBytes === 0 ? 0 : columns < WIDE_COLUMNS ? BAR_WIDTH.narrow : BAR_WIDTH.wide;
  const width = Math.min(NAME_WIDTH.most, Math.max(NAME_WIDTH.least, columns - barWidth - STATUS_WIDTH - 4));
  const label = name.length > width ? `…${name.slice(1 - width)}` : name.padEnd(width);
  const share = expectedBytes > 0 ? Math.min(1, bytes / expectedBytes) : 0;
  const filled = Math.round(share * barWidth);
  const bar = barWidth > 0 ? `${'█'.repeat(filled)}${'░'.repeat(barWidth - filled)} ` : '';
  return `  ${label} ${bar}${figuresText(item)}`.slice(0, columns - 1);
}

function figuresText({ bytes, items, expectedBytes, rate, secondsLeft }: Item): string {
  const count = items > 0 ? `${items}, ` : '';
  const total = expectedBytes > 0 ? ` of ${sizeText(expectedBytes)}` : '';
  const left = secondsLeft === undefined ? '' : `, ${secondsLeft} s left`;
  return `${count}${sizeText(bytes)}${total}, ${sizeText(rate)}/s${left}`;
}

function summary(bytes: number, ms: number): string {
  return bytes === 0 ? '' : ` (${sizeText(bytes)} in ${(ms / 1000).toFixed(1)} s)`;
}

function screenOfTerminal(): Screen {
  const { columns, rows } = process.stderr;
  return columns > 0 && rows > 0 ? { columns, rows } : USUAL_SCREEN;
}

/** The form for the current output. */
export function progressForm({ json }: { readonly json: boolean }): ProgressForm {
  if (json) return 'json';
  return process.stderr.isTTY ? 'bars' : 'lines';
}
