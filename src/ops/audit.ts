import { createLogger } from './logger.ts';

export interface AuditOptions {
  readonly output: 'none' | 'stdout' | 'file';
  readonly auditFile?: string | undefined;
}

/** Who did what, when, and what came of it: apart from the log, for who keeps it longer, and never with a secret. */
export interface Audit {
  record(fields: object): void;
  /** Writes out what is buffered, before it returns. */
  flush(): void;
  /** Opens the file by its name again, since the old one may have been moved. Throws, and keeps the old one, when it cannot. */
  reopen(): void;
}

/** `undefined` where nobody wants one. */
export function createAudit({ output, auditFile }: AuditOptions): Audit | undefined {
  if (output === 'none') return undefined;
  const file = output === 'file' ? auditFile : undefined;
  const open = () => createLogger({ level: 'info', format: 'json', file });
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
