import { answerJson } from './answer.ts';
import type { Exchange } from './exchange.ts';
import type { Access } from './front.ts';

/** `GET /v2/` (distribution spec, "Determining Support"): where podman, skopeo and Docker learn whether to log in. */
export async function readBase(exchange: Exchange, access: Access): Promise<void> {
  exchange.requester = await access.authenticate(exchange.sender);
  await access.admit?.(exchange.requester, exchange.sender);
  answerJson(exchange, 200, {}, {});
}
