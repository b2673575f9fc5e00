import type { LostContent } from '../metadata-store.ts';
import type { Connection, Statement } from './connection.ts';
import { isHosted, isLinkedManifest, isUnderPin } from './reachability.ts';

/** Prepares the query for all lost content, ordered by digest. */
export function selectLost(connection: Connection): Statement<[], LostContent> {
  return connection.prepare(`
    SELECT iif(${isLinkedManifest('q.digest')}, 'manifest', 'blob') AS kind, q.digest, q.reason
    FROM quarantine q
    WHERE (${isHosted('q.digest')} OR ${isUnderPin('q.digest')})
      AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = q.digest)
      AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.digest = q.digest)
    ORDER BY q.digest`);
}
