import { openSync } from 'node:fs';
import { type DestinationStream, type Logger as PinoLogger, pino } from 'pino';
import { PinoPretty } from 'pino-pretty';
import type { Log } from '../lib/log.ts';
import { LineSink } from './line-sink.ts';
import { redactFields, redactText } from './redact.ts';

/**
 * The log: one JSON object a line on standard output, or lines for people on a terminal. Lines are gathered, and leave
 * within a second, at once when the process ends.
 */

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
  /** Writes a text for people among the lines. */
  readonly print: (text: string) => void;
}

/** A logger on standard output, or on `output`. */
export function createLogger(options: LoggerOptions): Logger {
  const isTerminal = options.isTerminal ?? process.stdout.isTTY;
  const isPretty = options.format === 'pretty' || (options.format === 'auto' && isTerminal);
  const sink = sinkOf(options, lost =>
    log.warn({ lost }, 'lines of the log were lost: they could not be written'),
  );
  const logger = pino(
    {
      level: options.level,
      base: null,
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: label => ({ level: label }) },
      // Redaction happens before pino sees the fields, because pino's own knows paths only, and errors are done by then.
      serializers: { err: (error: unknown) => error },
    },
    isPretty ? prettyStream(sink, isTerminal) : sink,
  );
  const log = new RedactingLog(logger);
  const print = (text: string) => {
    sink.write(text);
    sink.flush();
  };
  return { log, isPretty, flush: () => sink.flush(), print };
}

interface Sink {
  write(text: string): void;
  flush(): void;
}

function sinkOf({ output, file }: LoggerOptions, onLost: (lines: number) => void): Sink {
  if (output !== undefined) return { write: text => void output.write(text), flush: () => {} };
  return new LineSink(file === undefined ? STANDARD_OUTPUT : openSync(file, 'a', PRIVATE_MODE), onLost);
}

function prettyStream(sink: Sink, isTerminal: boolean): DestinationStream {
  const format = PinoPretty.prettyFactory({
    colorize: isTerminal,
    translateTime: 'SYS:HH:MM:ss.l',
    include: [...OWN_PLACES].join(','),
    messageFormat: (line, messageKey) => `${String(line[messageKey])}${fieldsText(line, messageKey)}`,
  });
  return {
    // In this thread: a transport's worker would lose the last lines of a crash. At once, since somebody watches.
    write: line => {
      sink.write(format(JSON.parse(line)) ?? line);
      sink.flush();
    },
  };
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
