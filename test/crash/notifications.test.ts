// Ten thousand pushes are told to endpoints that fail, hang, redirect, answer slowly and restart, while the server is killed
// again and again: each arrives everywhere at least once, and in the order of its repository.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Receiver, type ReceiverAnswer } from '../../src/events/receiver.fixture.ts';
import { get } from '../support/client.ts';
import { bytesOf, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { pushImage } from '../support/push-client.ts';

const REPOSITORIES = 20;
const PUSHES_EACH = 500;
const KILLS = 8;

const image = imageOf([randomBlob(1_000, 'told')]);
const { mediaType, digest } = image.manifest;
const bytes = bytesOf(image.manifest);

interface Sent {
  readonly id: string;
  readonly target: { readonly repository: string; readonly tag?: string };
}

/** An endpoint, with the tags of each repository in the order in which they first arrived. */
class Endpoint {
  readonly tags = new Map<string, Set<string>>();
  readonly #answers: (request: number) => ReceiverAnswer | Promise<ReceiverAnswer>;
  #receiver: Receiver | undefined;
  #requests = 0;
  events = 0;

  constructor(answers: (request: number) => ReceiverAnswer | Promise<ReceiverAnswer>) {
    this.#answers = answers;
  }

  async start(port?: number): Promise<void> {
    this.#receiver = await Receiver.start(port);
    this.#receiver.answer = async ({ body }) => {
      this.#requests += 1;
      const answer = await this.#answers(this.#requests);
      // One that fails after it has received the events has them all the same.
      if (answer === 204 || answer === 'reset') this.#take(JSON.parse(body).events);
      return answer;
    };
  }

  get url(): string {
    return this.#receiver?.url ?? '';
  }

  async restart(): Promise<void> {
    const port = this.#receiver?.port;
    await this.#receiver?.close();
    await sleep(200);
    await this.start(port);
  }

  async stop(): Promise<void> {
    await this.#receiver?.close();
  }

  #take(events: readonly Sent[]): void {
    this.events += events.length;
    for (const { target } of events) {
      // The first push, by digest.
      if (target.tag === undefined) continue;
      const known = this.tags.get(target.repository) ?? new Set();
      this.tags.set(target.repository, known.add(target.tag));
    }
  }
}

const inside = { location: 'http://127.0.0.1:1/admin' };
/** Each fails one request of ten in its own way, or answers all of them in its own time. */
const oneOfTen = (answer: ReceiverAnswer) => (request: number) => (request % 10 === 5 ? answer : 204);
const endpoints = {
  failing: new Endpoint(oneOfTen(503)),
  hanging: new Endpoint(oneOfTen('hang')),
  redirecting: new Endpoint(oneOfTen(inside)),
  breaking: new Endpoint(oneOfTen('reset')),
  slow: new Endpoint(() => sleep(100, 204)),
  restarting: new Endpoint(() => 204),
};

let entrepot: Entrepot;

beforeEach(async () => {
  for (const endpoint of Object.values(endpoints)) await endpoint.start();
  entrepot = await Entrepot.start({
    hosted: { prefixes: ['tools'], anonymous: 'push' },
    log: { level: 'warn' },
    notifications: {
      endpoints: Object.entries(endpoints).map(([name, { url }]) => ({ name, url, timeout: '1s' })),
    },
  });
});

afterEach(async () => {
  await entrepot.remove();
  for (const endpoint of Object.values(endpoints)) await endpoint.stop();
});

/** Resolves when the server has acknowledged the push, however often it dies meanwhile. */
async function push(repository: string, tag: string): Promise<void> {
  for (;;) {
    const put = { method: 'PUT', headers: { 'content-type': mediaType }, body: bytes };
    const url = `${entrepot.url}/v2/${repository}/manifests/${tag}`;
    const status = await get(url, put).then(
      got => got.status,
      () => 0,
    );
    if (status === 201) return;
    await sleep(50);
  }
}

it('each arrives at every endpoint, in order', { timeout: 900_000 }, async () => {
  const names = Array.from({ length: REPOSITORIES }, (_, number) => `tools/app-${number}`);
  for (const name of names) await pushImage(entrepot.url, name, digest, image);
  const progress = { pushed: 0 };
  const pushing = Promise.all(
    names.map(async name => {
      for (let number = 0; number < PUSHES_EACH; number += 1) {
        await push(name, `v${number}`);
        progress.pushed += 1;
      }
    }),
  );
  for (let kill = 1; kill <= KILLS; kill += 1) {
    const from = (kill * REPOSITORIES * PUSHES_EACH) / (KILLS + 1);
    while (progress.pushed < from) await sleep(20);
    await endpoints.restarting.restart();
    await entrepot.kill();
    entrepot = await entrepot.startAgain();
  }
  await pushing;
  // In the middle of what is still to be sent.
  await entrepot.kill();
  entrepot = await entrepot.startAgain();
  const waiting = async (): Promise<readonly number[]> => {
    const text = await entrepot.metrics();
    const found = text.matchAll(/^entrepot_notifications_waiting\{endpoint="\w+"\} (\d+)$/gm);
    return [...found].map(([, count]) => Number(count));
  };
  await vi.waitFor(async () => expect(await waiting()).toEqual([0, 0, 0, 0, 0, 0]), {
    timeout: 600_000,
    interval: 500,
  });
  const expected = Array.from({ length: PUSHES_EACH }, (_, number) => `v${number}`);
  for (const [name, endpoint] of Object.entries(endpoints)) {
    for (const repository of names) {
      const tags = [...(endpoint.tags.get(repository) ?? [])];
      expect(tags, `${repository} at ${name}`).toEqual(expected);
    }
    expect(endpoint.events).toBeGreaterThanOrEqual(REPOSITORIES * PUSHES_EACH);
  }
});
