import type { Hosted } from '../hosted/hosted.ts';
import type { Publication } from '../hosted/publication.ts';
import type { Removal } from '../hosted/removal.ts';
import type { Uploads } from '../hosted/uploads.ts';
import { catalogHandler } from './catalog.ts';
import { contentHandlers } from './hosted-content.ts';
import type { HostedHandlers } from './hosted-handlers.ts';
import { uploadHandlers } from './uploads.ts';

/** The parts of `hosted/` behind the write side of the API. */
export interface HostedParts {
  readonly hosted: Hosted;
  readonly uploads: Uploads;
  readonly publication: Publication;
  readonly removal: Removal;
}

export function hostedHandlers({ hosted, uploads, publication, removal }: HostedParts): HostedHandlers {
  return {
    ...uploadHandlers(uploads, removal),
    ...contentHandlers(publication, removal),
    catalog: catalogHandler(hosted),
  };
}
