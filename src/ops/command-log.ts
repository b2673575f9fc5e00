import type { Log } from '../lib/log.ts';
import { plainText } from './fields-text.ts';
import { redactFields, redactText } from './redact.ts';

/** A warning of a command, as a line for people. */
export function warningLine(text: string): string {
  return `entrepot: warning: ${text}\n`;
}

/**
 * The log of a command: warnings and errors, each as one line for people on standard error. Of an error it has the
 * message. Everything is redacted.
 */
export class CommandLog implements Log {
  readonly #write: (text: string) => void;
  readonly #bindings: object;
  readonly #muted: readonly string[];

  /** `muted`: messages of which the command itself tells more. */
  constructor(write: (text: string) => void, bindings: object = {}, muted: readonly string[] = []) {
    this.#write = write;
    this.#bindings = bindings;
    this.#muted = muted;
  }

  debug(): void {}

  info(): void {}

  warn(fields: object, message: string): void {
    this.#tell(fields, message, warningLine);
  }

  error(fields: object, message: string): void {
    this.#tell(fields, message, text => `entrepot: error: ${text}\n`);
  }

  child(bindings: object): Log {
    return new CommandLog(this.#write, { ...this.#bindings, ...bindings }, this.#muted);
  }

  #tell(fields: object, message: string, line: (text: string) => string): void {
    if (this.#muted.includes(message)) return;
    const { err, reason, ...others } = redactFields({ ...this.#bindings, ...fields });
    const reasons = [reason, messageOf(err)].filter(each => each !== undefined).map(plainText);
    this.#write(line([redactText(message), ...reasons].join(': ') + detailsText(others)));
  }
}

/** The message of a redacted error. */
function messageOf(error: unknown): unknown {
  return typeof error === 'object' && error !== null && 'message' in error ? error.message : undefined;
}

/** ` (tenant: team-a; paths: /a, /b)`, or nothing. */
function detailsText(fields: Readonly<Record<string, unknown>>): string {
  const details = Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key}: ${plainText(value)}`);
  return details.length === 0 ? '' : ` (${details.join('; ')})`;
}
