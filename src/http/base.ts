import { answerJson } from './answer.ts';
import type { Exchange } from './exchange.ts';
import type { Access } from './front.ts';

/** `GET /v2/` (distribution spec, "Determining Support"): where podman, skopeo and Docker learn whether to log in. */
export async function readBase(exchange: Exchange, access: Access): Promise<void> {
  const visitor = await exchange.inTime(access.authenticate(exchange.sender));
  exchange.requester = visitor.requester;
  await exchange.inTime(visitor.admit());
  answerJson(exchange, 200, {}, {});
}
