import { constants, openSync } from 'node:fs';
import { type DestinationStream, type Logger as PinoLogger, pino } from 'pino';
import { PinoPretty } from 'pino-pretty';
import type { Log } from '../lib/log.ts';
import { fieldsText } from './fields-text.ts';
import { LineSink } from './line-sink.ts';
import { loggable, redactFields, redactText } from './redact.ts';

/**
 * The log: one JSON object per line on standard output, or text on a terminal. Lines are batched, and written within a
 * second, and when the process ends.
 */

const STANDARD_OUTPUT = 1;

/** PIPE_BUF of Linux: pipes take up to this many bytes at once or not at all (POSIX, write). */
const WHOLE_BYTES = 4096;

/** Opening a named pipe must not wait for a reader, since nothing else would happen meanwhile (fifo(7)). */
const APPENDING = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NONBLOCK;

/** For new log files: who did what is nobody else's business. */
const PRIVATE_MODE = 0o600;

export interface LoggerOptions {
  /** Less important lines are not written. */
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  /** `auto`: text on a terminal, otherwise JSON. */
  readonly format: 'auto' | 'json' | 'pretty';
  /** Where lines go; default standard output. */
  readonly output?: { write(text: string): unknown };
  /** A file to append to instead of standard output. Opened at once: throws if it cannot be written. */
  readonly file?: string | undefined;
  /** Set if other processes write to the same output: lines then stay whole. */
  readonly isShared?: boolean;
  /** Whether standard output is a terminal; decides `auto`. */
  readonly isTerminal?: boolean;
}

/** The log of a process. */
export interface Logger {
  readonly log: Log;
  /** Whether lines are text rather than JSON. */
  readonly isPretty: boolean;
  /** Writes what is buffered before it returns. For the last line before the process ends. */
  readonly flush: () => void;
  /** Prints a text between the lines. */
  readonly print: (text: string) => void;
  /** For this log and all its children. */
  readonly setLevel: (level: LogLevel) => void;
  /** Writes what is buffered and closes the file. Not for a log on standard output. */
  readonly close: () => void;
}

type LogLevel = LoggerOptions['level'];

/** A logger on standard output, or on `output`. */
export function createLogger(options: LoggerOptions): Logger {
  const isTerminal = options.isTerminal ?? process.stdout.isTTY;
  const isPretty = options.format === 'pretty' || (options.format === 'auto' && isTerminal);
  const sink = sinkOf(options, lost =>
    log.warn({ lost }, 'log lines were lost because they could not be written'),
  );
  const threshold = { level: options.level };
  const logger = pino(
    {
      // `threshold` decides: a child of pino's keeps the level of its parent from when it was created.
      level: 'debug',
      base: null,
      timestamp: timestamps(),
      formatters: { level: label => ({ level: label }) },
      // Redacted before pino sees the fields: pino's own redaction knows only paths, and comes after errors are
      // serialized.
      serializers: { err: (error: unknown) => error },
    },
    isPretty ? prettyStream(sink, isTerminal) : sink,
  );
  const log = new RedactingLog(logger, threshold);
  const print = (text: string) => {
    sink.write(text);
    sink.flush();
  };
  const setLevel = (level: LogLevel): void => void (threshold.level = level);
  return { log, isPretty, flush: () => sink.flush(), print, setLevel, close: () => sink.close() };
}

/** pino's field of the time. Formatted again only when the clock has moved: many lines are of the same millisecond. */
function timestamps(): () => string {
  let writtenMs = Number.NaN;
  let text = '';
  return () => {
    const nowMs = Date.now();
    if (nowMs !== writtenMs) text = `,"time":"${new Date(nowMs).toISOString()}"`;
    writtenMs = nowMs;
    return text;
  };
}

interface Sink {
  write(text: string): void;
  flush(): void;
  close(): void;
}

function sinkOf({ output, file, isShared = false }: LoggerOptions, onLost: (lines: number) => void): Sink {
  if (output !== undefined) {
    return { write: text => void output.write(text), flush: () => {}, close: () => {} };
  }
  const fd = file === undefined ? STANDARD_OUTPUT : openSync(file, APPENDING, PRIVATE_MODE);
  return new LineSink(fd, onLost, isShared ? WHOLE_BYTES : undefined);
}

function prettyStream(sink: Sink, isTerminal: boolean): DestinationStream {
  const format = PinoPretty.prettyFactory({
    colorize: isTerminal,
    translateTime: 'SYS:HH:MM:ss.l',
    include: OWN_PLACES.join(','),
    messageFormat: (line, messageKey) =>
      `${String(line[messageKey])}${fieldsText(line, [...OWN_PLACES, messageKey])}`,
  });
  return {
    // In this thread, since a transport's worker would lose the last lines in a crash. Not batched, since somebody is
    // watching.
    write: line => {
      sink.write(format(JSON.parse(line)) ?? line);
      sink.flush();
    },
  };
}

/** Fields that a text line shows in their own way: errors keep their line breaks. */
const OWN_PLACES = ['level', 'time', 'err'];

const LEVELS: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3 };

/** pino behind `Log`: everything is redacted first, but only if it is written. */
class RedactingLog implements Log {
  readonly #pino: PinoLogger;
  readonly #threshold: { readonly level: LogLevel };

  constructor(logger: PinoLogger, threshold: { readonly level: LogLevel }) {
    this.#pino = logger;
    this.#threshold = threshold;
  }

  debug(fields: object, message: string): void {
    this.#write('debug', fields, message);
  }

  info(fields: object, message: string): void {
    this.#write('info', fields, message);
  }

  warn(fields: object, message: string): void {
    this.#write('warn', fields, message);
  }

  error(fields: object, message: string): void {
    this.#write('error', fields, message);
  }

  child(bindings: object): Log {
    return new RedactingLog(this.#pino.child(redactFields(bindings)), this.#threshold);
  }

  #write(level: LogLevel, fields: object, message: string): void {
    if (LEVELS[level] < LEVELS[this.#threshold.level]) return;
    this.#pino[level](loggable(fields), redactText(message));
  }
}
