import { createLogger } from './logger.ts';

export interface AuditOptions {
  readonly output: 'none' | 'stdout' | 'file';
  /** A file to append to; required for the output `file`. */
  readonly auditFile?: string | undefined;
  /** As in `LoggerOptions`. */
  readonly isShared?: boolean;
}

/**
 * The audit log: who did what, when, and with which result. Separate from the log, for those who keep it longer.
 * Contains no secrets.
 */
export interface Audit {
  record(fields: object): void;
  /** Writes what is buffered before it returns. */
  flush(): void;
  /**
   * Opens the file by its name again, since the old one may have been moved. If that fails, throws and keeps the old
   * one.
   */
  reopen(): void;
}

/** `undefined` if there is to be no audit log. */
export function createAudit({ output, auditFile, isShared = false }: AuditOptions): Audit | undefined {
  if (output === 'none') return undefined;
  const file = output === 'file' ? auditFile : undefined;
  const open = () => createLogger({ level: 'info', format: 'json', file, isShared });
  let current = open();
  return {
    record: fields => current.log.info(fields, 'audit'),
    flush: () => current.flush(),
    reopen: () => {
      if (file === undefined) return;
      const next = open();
      current.close();
      current = next;
    },
  };
}
