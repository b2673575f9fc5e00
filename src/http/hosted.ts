import type { Hosted } from '../hosted/hosted.ts';
import type { Publication } from '../hosted/publication.ts';
import type { Removal } from '../hosted/removal.ts';
import type { ClientUploads } from '../hosted/shared-uploads.ts';
import { catalogHandler } from './catalog.ts';
import type { Cursors } from './cursors.ts';
import { contentHandlers } from './hosted-content.ts';
import type { HostedHandlers } from './hosted-handlers.ts';
import { uploadHandlers } from './uploads.ts';

/** The parts of `hosted/` behind the write side of the API. */
export interface HostedParts {
  readonly hosted: Hosted;
  readonly uploads: ClientUploads;
  readonly publication: Publication;
  readonly removal: Removal;
  readonly cursors: Cursors;
}

/** The handlers of the write side, from their parts. */
export function hostedHandlers(parts: HostedParts): HostedHandlers {
  const { hosted, uploads, publication, removal, cursors } = parts;
  return {
    ...uploadHandlers(uploads),
    ...contentHandlers(publication, removal),
    catalog: catalogHandler(hosted, cursors),
  };
}
