import type { Log } from '../lib/log.ts';
import { isOutage } from '../oci/outage.ts';

/** Logs that something which upstream sent was not recorded. Of an outage only to debug, since that has a line of its own. */
export function logUnstored(log: Log, error: unknown, fields: object, message: string): void {
  if (isOutage(error)) log.debug({ err: error, ...fields }, message);
  else log.error({ err: error, ...fields }, message);
}
