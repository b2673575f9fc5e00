import { hash } from 'node:crypto';
import { FairSlots, SlotsFull } from '../../lib/fair-slots.ts';
import { isJsonObject, type JsonObject } from '../../lib/json.ts';
import { Lru } from '../../lib/lru.ts';
import { SingleFlight } from '../../lib/single-flight.ts';
import type { KubeClient } from './kube-client.ts';

/** What the cluster says of a token. */
export interface ReviewedToken {
  /** As the cluster names him: `system:serviceaccount:monitoring:grafana`. */
  readonly user: string;
  /** Which of the verbs that were asked for he may use on the path. */
  readonly verbs: ReadonlySet<string>;
}

/** For how long an answer is believed, as by kubelets: a right that is taken away ends within a minute. */
const BELIEVED_MS = 60_000;
const MAX_REMEMBERED = 1_000;

/**
 * Tokens that the cluster judges at once. Anybody can make some up, and the cluster may take half a minute for each: one
 * source leaves room for others, and its turns come after theirs.
 */
const JUDGED = { max: 16, maxPerAsker: 4, maxWaitingPerAsker: 8 } as const;
/** Of all sources together: those whose clients have gone wait, too. */
const MAX_WAITING = 256;

/**
 * Asks the cluster whom a token identifies (TokenReview), and what he may do with a non-resource URL
 * (SubjectAccessReview); it needs `create` on both.
 */
export class AccessReview {
  readonly #client: Pick<KubeClient, 'review'>;
  readonly #path: string;
  readonly #verbs: readonly string[];
  /** By the token's hash. */
  readonly #known = new Lru<{ readonly reviewed: ReviewedToken | undefined }>({
    maxEntries: MAX_REMEMBERED,
    maxAgeMs: BELIEVED_MS,
  });
  readonly #flights = new SingleFlight<ReviewedToken | undefined>();
  readonly #slots = new FairSlots(JUDGED);

  /** `path`: the non-resource URL; `verbs`: what is asked about it. */
  constructor(client: Pick<KubeClient, 'review'>, path: string, verbs: readonly string[]) {
    this.#client = client;
    this.#path = path;
    this.#verbs = verbs;
  }

  /**
   * `undefined` if the cluster does not accept the token. `source` is who sent it. Rejects if the cluster cannot be asked,
   * with SlotsFull if too many tokens wait for that.
   */
  async review(token: string, source: string): Promise<ReviewedToken | undefined> {
    const key = hash('sha256', token);
    const known = this.#known.get(key);
    if (known !== undefined) return known.reviewed;
    const reviewed = await this.#flights.run(key, () => this.#inTurn(token, source)).promise;
    this.#known.set(key, { reviewed });
    return reviewed;
  }

  async #inTurn(token: string, source: string): Promise<ReviewedToken | undefined> {
    if (this.#slots.waiting >= MAX_WAITING) throw new SlotsFull(`${MAX_WAITING} tokens are already waiting`);
    return this.#slots.run(source, () => this.#ask(token));
  }

  async #ask(token: string): Promise<ReviewedToken | undefined> {
    const answer = await this.#client.review('/apis/authentication.k8s.io/v1/tokenreviews', {
      apiVersion: 'authentication.k8s.io/v1',
      kind: 'TokenReview',
      spec: { token },
    });
    const { authenticated, user } = statusOf(answer);
    if (authenticated !== true || !isJsonObject(user) || typeof user['username'] !== 'string')
      return undefined;
    const { username } = user;
    const allowed = await Promise.all(
      this.#verbs.map(async verb => ((await this.#isAllowed(user, verb)) ? verb : [])),
    );
    return { user: username, verbs: new Set(allowed.flat()) };
  }

  async #isAllowed({ username, uid, groups, extra }: JsonObject, verb: string): Promise<boolean> {
    const answer = await this.#client.review('/apis/authorization.k8s.io/v1/subjectaccessreviews', {
      apiVersion: 'authorization.k8s.io/v1',
      kind: 'SubjectAccessReview',
      spec: { user: username, uid, groups, extra, nonResourceAttributes: { path: this.#path, verb } },
    });
    return statusOf(answer)['allowed'] === true;
  }
}

function statusOf({ status }: JsonObject): JsonObject {
  return isJsonObject(status) ? status : {};
}
