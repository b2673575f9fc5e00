import type { Registry } from './registry.ts';

/** One sentence of the OCI distribution-spec, and the exchange that shows whether it is kept. */
export interface Requirement {
  /** Ours: a letter for the category, then a number that stays. */
  readonly id: string;
  /** The heading in spec.md. */
  readonly section: string;
  /** `own`: not the spec's, but a promise of ours about the same requests. */
  readonly level: 'MUST' | 'SHOULD' | 'MAY' | 'own';
  /** What is required, in short. */
  readonly text: string;
  readonly check: (registry: Registry) => Promise<unknown>;
}
