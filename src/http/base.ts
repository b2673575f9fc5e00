import { answerJson } from './answer.ts';
import type { Exchange } from './exchange.ts';
import type { RequestAccess } from './front.ts';

/**
 * `GET /v2/` (distribution spec, "Determining Support"), by which podman, skopeo and Docker learn whether to log in.
 */
export async function readBase(exchange: Exchange, access: RequestAccess): Promise<void> {
  const subject = await exchange.inTime(access.authenticate(exchange.sender));
  exchange.requester = subject.requester;
  await exchange.inTime(subject.admit());
  answerJson(exchange, 200, {}, {});
}
