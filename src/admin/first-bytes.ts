import type { Outcome } from '../oci/pull-source.ts';
import { type FirstByteCounts, firstByteSummary } from '../ops/first-byte-times.ts';
import type { FirstBytesDocument } from './documents/first-bytes.ts';
import type { ServingReport } from './serving-report.ts';

/** From what is at hand to what takes longest. */
const OUTCOMES: readonly Outcome[] = ['hit', 'hosted', 'revalidated', 'stale', 'joined', 'miss'];

/** How long clients waited in the last hour, for content of `upstream`, or any. Only outcomes that there were. */
export function firstBytesDocument(
  reports: readonly Pick<ServingReport, 'firstBytes'>[],
  upstream?: string,
): FirstBytesDocument {
  const isMeant = (each: FirstByteCounts) => upstream === undefined || each.upstream === upstream;
  const all = reports.flatMap(({ firstBytes }) => firstBytes.filter(isMeant));
  return OUTCOMES.flatMap(outcome => {
    const summary = firstByteSummary(all.filter(each => each.outcome === outcome));
    return summary === undefined ? [] : { outcome, ...summary };
  });
}
