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

  constructor(write: (text: string) => void, bindings: object = {}) {
    this.#write = write;
    this.#bindings = bindings;
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
    return new CommandLog(this.#write, { ...this.#bindings, ...bindings });
  }

  #line(level: string, fields: object, message: string): void {
    const all = redactFields({ ...this.#bindings, ...fields });
    this.#write(`${level}: ${redactText(message)}${reasonText(all['err'])}${fieldsText(all, ['err'])}\n`);
  }
}

/** The text of a redacted error. */
function reasonText(error: unknown): string {
  const isError = typeof error === 'object' && error !== null && 'message' in error;
  return isError ? fieldsText({ error: error.message }, []) : '';
}
