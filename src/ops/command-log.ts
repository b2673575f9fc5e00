import type { Log } from '../lib/log.ts';
import { fieldsText } from './fields-text.ts';
import { redactFields, redactText } from './redact.ts';

/**
 * The log of a command: warnings and errors, each as one line on standard error. Of an error it has the message.
 * Everything is redacted.
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
    this.#line('warning', fields, message);
  }

  error(fields: object, message: string): void {
    this.#line('error', fields, message);
  }

  child(bindings: object): Log {
    return new CommandLog(this.#write, { ...this.#bindings, ...bindings }, this.#muted);
  }

  #line(level: string, fields: object, message: string): void {
    if (this.#muted.includes(message)) return;
    const all = redactFields({ ...this.#bindings, ...fields });
    this.#write(`${level}: ${redactText(message)}${reasonText(all['err'])}${fieldsText(all, ['err'])}\n`);
  }
}

/** The text of a redacted error. */
function reasonText(error: unknown): string {
  const isError = typeof error === 'object' && error !== null && 'message' in error;
  return isError ? fieldsText({ error: error.message }, []) : '';
}
