import { Cron } from 'croner';

/** When something is due again and again: minute, hour, day, month and weekday, as cron(8) has it, in local time. */
export interface CronSchedule {
  /** The first time after `nowMs`, epoch ms. */
  nextMs(nowMs: number): number;
}

/** Throws for what is no schedule, or one that never comes. */
export function parseCron(text: string): CronSchedule {
  // Five fields: seconds are for alarm clocks.
  const cron = new Cron(text, { mode: '5-part', paused: true });
  const nextMs = (nowMs: number): number => {
    const next = cron.nextRun(new Date(nowMs));
    if (next === null) throw new RangeError(`${JSON.stringify(text)} never occurs`);
    return next.getTime();
  };
  nextMs(Date.now());
  return { nextMs };
}

/** Whether `parseCron` takes the text. */
export function isCron(text: string): boolean {
  try {
    parseCron(text);
    return true;
  } catch {
    return false;
  }
}
