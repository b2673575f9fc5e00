import type { Publication } from '../hosted/publication.ts';
import { MAX_TAGS_PER_PUSH } from '../hosted/publication.ts';
import type { Removal } from '../hosted/removal.ts';
import { isDigest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { parseTag } from '../oci/reference.ts';
import { answer, pathTo } from './answer.ts';
import type { HostedHandlers } from './hosted-handlers.ts';
import type { Query } from './query.ts';
import { contentLengthOf } from './uploads.ts';

type ContentHandlers = Pick<HostedHandlers, 'putManifest' | 'deleteManifest' | 'deleteBlob'>;

/** Pushing manifests, and deleting (distribution-spec, "Pushing Manifests" and "Content Management"). */
export function contentHandlers(publication: Publication, removal: Removal): ContentHandlers {
  return {
    async putManifest({ exchange, name, repository, reference }) {
      const { req } = exchange;
      const tags = isDigest(reference) ? parseTags(exchange.query) : [];
      const { digest, subject } = await publication.publish(repository, {
        reference,
        tags,
        contentType: req.headers['content-type'] ?? '',
        contentLength: contentLengthOf(req),
        body: req,
        holder: exchange.memoryHolder,
        actor: exchange.actor,
        during: exchange.during,
      });
      answer(exchange, 201, {
        Location: pathTo(exchange, name, `manifests/${digest}`),
        'Docker-Content-Digest': digest,
        ...(subject && { 'OCI-Subject': subject }),
        ...(tags.length > 0 && { 'OCI-Tag': tags.join(', ') }),
      });
    },

    async deleteManifest({ exchange, repository, reference }) {
      await removal.removeManifest(repository, reference, exchange);
      answer(exchange, 202, {});
    },

    async deleteBlob({ exchange, repository, digest }) {
      await removal.removeBlob(repository, digest, exchange);
      answer(exchange, 202, {});
    },
  };
}

/** `?tag=1.2.3&tag=1.2` beside a digest (distribution-spec, end-7b). */
function parseTags(query: Query): readonly string[] {
  const tags = [...new Set(query.getAll('tag'))];
  if (tags.length > MAX_TAGS_PER_PUSH) {
    throw new OciError('QUERY_INVALID', { message: `at most ${MAX_TAGS_PER_PUSH} tags in one push` });
  }
  return tags.map(parseTag);
}
