/** How far a correctly kept clock may be set back. Processes on one machine share a clock. */
export const CLOCK_SLACK_MS = 60_000;
