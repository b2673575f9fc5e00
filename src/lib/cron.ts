import { Cron } from 'croner';

/** A schedule as in cron(8): minute, hour, day, month and weekday, in local time. */
export interface CronSchedule {
  /** The first time after `nowMs`, epoch ms. */
  nextMs(nowMs: number): number;
}

/** Parses a schedule; throws if it is invalid or never due. */
export function parseCron(text: string): CronSchedule {
  // Five fields: no seconds.
  const cron = new Cron(text, { mode: '5-part', paused: true });
  const nextMs = (nowMs: number): number => {
    const next = cron.nextRun(new Date(nowMs));
    if (next === null) throw new RangeError(`${JSON.stringify(text)} never occurs`);
    return next.getTime();
  };
  nextMs(Date.now());
  return { nextMs };
}

/** Whether `parseCron` accepts the text. */
export function isCron(text: string): boolean {
  try {
    parseCron(text);
    return true;
  } catch {
    return false;
  }
}
