import type { Log } from '../../lib/log.ts';
import type { Meter } from '../../lib/meter.ts';
import { PacedLines } from '../../lib/paced-lines.ts';
import type { PassedOver } from '../secret-source.ts';
import type { KubeObject } from './kube-client.ts';

/** Each is a line for people and a time series; if there are thousands, some are enough to find their author. */
const MAX_TOLD = 100;

/** The objects of the cluster whose content is not read, and why: for the log, `entrepot tenants` and a metric. */
export class PassedOverObjects {
  readonly #meter: Meter;
  readonly #lines: PacedLines<PassedOver>;
  readonly #told = new Map<string, PassedOver>();

  constructor(log: Log, meter: Meter) {
    this.#meter = meter;
    this.#lines = new PacedLines((namespace, { events, count }) => {
      const objects = events.map(({ resource, name, reason }) => ({ resource, name, reason }));
      log.warn({ namespace, objects, count }, 'objects of the cluster are skipped');
    });
  }

  get list(): readonly PassedOver[] {
    return [...this.#told.values()];
  }

  /** Records the current problem of an object, or that it has none any more. */
  note(
    resource: string,
    { namespace, name, problem }: Pick<KubeObject, 'namespace' | 'name' | 'problem'>,
  ): void {
    if (problem === undefined) {
      this.forget(resource, namespace, name);
      return;
    }
    const key = keyOf(resource, namespace, name);
    if (this.#told.has(key)) return;
    const one = { resource, namespace, name, reason: problem };
    this.#lines.note(namespace, one);
    if (this.#told.size >= MAX_TOLD) return;
    this.#told.set(key, one);
    this.#meter.gauge('kubernetes_passed_over', 1, { resource, namespace, name });
  }

  /** For an object that is gone or no longer belongs to a tenant. */
  forget(resource: string, namespace: string, name: string): void {
    if (!this.#told.delete(keyOf(resource, namespace, name))) return;
    this.#meter.gauge('kubernetes_passed_over', undefined, { resource, namespace, name });
  }

  close(): void {
    this.#lines.close();
  }
}

/** Joined by slashes, which no part contains. */
function keyOf(resource: string, namespace: string, name: string): string {
  return `${resource}/${namespace}/${name}`;
}
