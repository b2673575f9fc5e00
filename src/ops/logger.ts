import { openSync } from 'node:fs';
import { type DestinationStream, destination, type Logger as PinoLogger, pino } from 'pino';
import { PinoPretty } from 'pino-pretty';
import type { Log } from '../lib/log.ts';
import { redactFields, redactText } from './redact.ts';

/**
 * The log: one JSON object a line on standard output, or lines for people on a terminal. Lines are buffered, since a
 * write per response would cost more than many responses do, and leave within a second, at once when the process ends.
 */

/** pino's bound on what waits in memory; a buffer above 16,384 would be split into several writes anyway. */
const BUFFER_BYTES = 4096;

/** How long a line may wait when nothing follows it. */
const FLUSH_INTERVAL_MS = 1000;

const STANDARD_OUTPUT = 1;

/** Of a log file that is made here: who did what is nobody else's business. */
const PRIVATE_MODE = 0o600;

export interface LoggerOptions {
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  readonly format: 'auto' | 'json' | 'pretty';
  /** Where lines go; standard output unless a test wants them. */
  readonly output?: { write(text: string): unknown };
  /** A file to append to, in place of standard output. Opened at once: throws when it cannot be written. */
  readonly file?: string | undefined;
  /** Whether a person watches standard output; decides `auto`. */
  readonly isTerminal?: boolean;
}

export interface Logger {
  readonly log: Log;
  /** Whether the lines are for people. */
  readonly isPretty: boolean;
  /** Writes out what is buffered, before it returns. For the last line before the process ends. */
  readonly flush: () => void;
}

/** A logger on standard output, or on `output`. */
export function createLogger(options: LoggerOptions): Logger {
  const isTerminal = options.isTerminal ?? process.stdout.isTTY;
  const isPretty = options.format === 'pretty' || (options.format === 'auto' && isTerminal);
  const { stream, flush } = isPretty ? prettyStream(options, isTerminal) : jsonStream(options);
  const logger = pino(
    {
      level: options.level,
      base: null,
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: label => ({ level: label }) },
      // Redaction happens before pino sees the fields, because pino's own knows paths only, and errors are done by then.
      serializers: { err: (error: unknown) => error },
    },
    stream,
  );
  return { log: new RedactingLog(logger), isPretty, flush };
}

interface Sink {
  readonly stream: DestinationStream;
  readonly flush: () => void;
}

function jsonStream({ output, file }: LoggerOptions): Sink {
  if (output !== undefined) {
    return { stream: { write: text => void output.write(text) }, flush: () => {} };
  }
  // pino flushes this stream by itself when the process exits.
  const stream = destination({
    dest: file === undefined ? STANDARD_OUTPUT : openSync(file, 'a', PRIVATE_MODE),
    sync: false,
    minLength: BUFFER_BYTES,
    periodicFlush: FLUSH_INTERVAL_MS,
  });
  return { stream, flush: () => stream.flushSync() };
}

function prettyStream({ output }: LoggerOptions, isTerminal: boolean): Sink {
  const format = PinoPretty.prettyFactory({
    colorize: isTerminal,
    translateTime: 'SYS:HH:MM:ss.l',
    include: [...OWN_PLACES].join(','),
    messageFormat: (line, messageKey) => `${String(line[messageKey])}${fieldsText(line, messageKey)}`,
  });
  const write = (text: string) => void (output ?? process.stdout).write(text);
  // In this thread: a transport's worker would lose the last lines of a crash.
  return { stream: { write: line => write(format(JSON.parse(line)) ?? line) }, flush: () => {} };
}

/** What a line for people has a place of its own for: an error keeps its lines. */
const OWN_PLACES: ReadonlySet<string> = new Set(['level', 'time', 'err']);

/** Everything else behind the message, so that a response is one line for people too. */
function fieldsText(line: Readonly<Record<string, unknown>>, messageKey: string): string {
  return Object.entries(line)
    .filter(([key]) => key !== messageKey && !OWN_PLACES.has(key))
    .map(([key, value]) => ` ${key}=${valueText(value)}`)
    .join('');
}

const PLAIN_VALUE = /^[!-~]+$/;

/** A terminal obeys control characters, and what clients and upstreams say may hold some. */
const CONTROL = /[\u007f-\u009f]/g;

function valueText(value: unknown): string {
  if (typeof value === 'string' && PLAIN_VALUE.test(value)) return value;
  return JSON.stringify(value).replace(CONTROL, escaped);
}

function escaped(character: string): string {
  return `\\u00${character.charCodeAt(0).toString(16)}`;
}

/** pino behind `Log`; nothing reaches it that was not redacted, and nothing is redacted that it would drop. */
class RedactingLog implements Log {
  readonly #pino: PinoLogger;

  constructor(logger: PinoLogger) {
    this.#pino = logger;
  }

  debug(fields: object, message: string): void {
    if (this.#pino.isLevelEnabled('debug')) {
      this.#pino.debug(redactFields(fields), redactText(message));
    }
  }

  info(fields: object, message: string): void {
    if (this.#pino.isLevelEnabled('info')) {
      this.#pino.info(redactFields(fields), redactText(message));
    }
  }

  warn(fields: object, message: string): void {
    if (this.#pino.isLevelEnabled('warn')) {
      this.#pino.warn(redactFields(fields), redactText(message));
    }
  }

  error(fields: object, message: string): void {
    this.#pino.error(redactFields(fields), redactText(message));
  }

  child(bindings: object): Log {
    return new RedactingLog(this.#pino.child(redactFields(bindings)));
  }
}
