import type { Progress } from '../upkeep/stores.ts';
import { sizeText } from './columns.ts';
import type { Io } from './command.ts';

/** A terminal is redrawn so often; elsewhere a line is written so often. */
const REDRAW_MS = 100;
const LINE_MS = 10_000;
const CLEAR_LINE = '\r\u001B[K';

/** Says on standard error how far a command is: one line that changes on a terminal, a line now and then elsewhere. */
export class ProgressLine {
  readonly #io: Io;
  readonly #isTerminal: boolean;
  readonly #totalBytes: number | undefined;
  #shownAtMs: number;
  #isShown = false;

  /** With `totalBytes`, bytes are shown as a part of it. */
  constructor(io: Io, totalBytes?: number, isTerminal = process.stderr.isTTY) {
    this.#io = io;
    this.#isTerminal = isTerminal;
    this.#totalBytes = totalBytes;
    this.#shownAtMs = isTerminal ? 0 : performance.now();
  }

  show({ step, items, bytes }: Progress): void {
    const nowMs = performance.now();
    if (nowMs - this.#shownAtMs < (this.#isTerminal ? REDRAW_MS : LINE_MS)) {
      return;
    }
    this.#shownAtMs = nowMs;
    this.#isShown = this.#isTerminal;
    const text = `${this.#bar(bytes)}${step}: ${items}, ${sizeText(bytes)}`;
    this.#io.err(this.#isTerminal ? CLEAR_LINE + text : `${text}\n`);
  }

  /** Clears the line for what comes next. */
  end(): void {
    if (this.#isShown) {
      this.#io.err(CLEAR_LINE);
    }
  }

  #bar(bytes: number): string {
    if (this.#totalBytes === undefined || this.#totalBytes === 0) {
      return '';
    }
    const share = Math.min(1, bytes / this.#totalBytes);
    const percent = `${Math.floor(share * 100)} %`.padStart(5);
    return this.#isTerminal
      ? `[${'#'.repeat(Math.round(share * 20)).padEnd(20)}] ${percent}  `
      : `${percent}  `;
  }
}
