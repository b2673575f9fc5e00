/** Processes of one machine share a clock, and one that is kept right goes back by less. */
export const CLOCK_SLACK_MS = 60_000;
