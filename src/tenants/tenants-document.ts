import { setImmediate } from 'node:timers/promises';
import type { IssuedCredential } from '../oci/issued-credential.ts';
import type { PassedOver } from './secret-source.ts';
import type { RefusedTenant, SecretState, Tenants } from './tenant.ts';

/** How all tenants are, as JSON for people and their programs. Shows no secret. */
export interface TenantsDocument {
  /** What cannot be followed now, so that the rest may be of before. */
  readonly problems: readonly string[];
  /** What is not read, since it is too large, so that it counts for nothing or as it was. */
  readonly passedOver: readonly PassedOver[];
  /** The node's docker config, which all tenants share. */
  readonly node: readonly SecretState[];
  /** Who would be a tenant, but for the name. */
  readonly refused: readonly RefusedTenant[];
  readonly tenants: readonly TenantDocument[];
}

export interface TenantDocument {
  readonly name: string;
  readonly suspended?: string;
  /** Of its repositories here, as its quota counts them. */
  readonly usedBytes: number;
  /** `null`: no bound. */
  readonly quotaBytes: number | null;
  readonly secrets: readonly SecretState[];
  readonly issued: readonly IssuedDocument[];
}

/** A credential that was issued to the tenant; without `endsAtMs` it does not end. */
export interface IssuedDocument {
  readonly id: string;
  readonly server: string;
  readonly readOnly: boolean;
  readonly issuedAtMs: number;
  readonly endsAtMs?: number;
  readonly lastUsedAtMs?: number;
}

/** Of so many tenants the use is read before others have their turn: less than 10 ms. */
const TENANTS_A_TURN = 200;

/** What the running server knows of its tenants, with all that was issued to them, and what counts against their quotas. */
export async function tenantsDocument(
  tenants: Tenants,
  issued: readonly IssuedCredential[],
  usedBytesOf: (tenant: string) => Promise<number>,
): Promise<TenantsDocument> {
  const all = tenants.list();
  const used = new Map<string, number>();
  for (const { name } of all) {
    used.set(name, await usedBytesOf(name));
    if (used.size % TENANTS_A_TURN === 0) await setImmediate();
  }
  return {
    problems: tenants.problems,
    passedOver: tenants.passedOver,
    node: tenants.node,
    refused: tenants.refused,
    tenants: all.map(({ name, suspended, secrets, options }) => ({
      name,
      ...(suspended !== undefined && { suspended }),
      usedBytes: used.get(name) ?? 0,
      quotaBytes: options.quotaBytes ?? null,
      secrets,
      issued: issued
        .filter(({ tenant }) => tenant === name)
        .map(credential => issuedDocument(credential, tenants.lastUsedAtMs(credential.id))),
    })),
  };
}

function issuedDocument(
  { id, server, readOnly, issuedAtMs, endsAtMs }: IssuedCredential,
  lastUsedAtMs: number | undefined,
): IssuedDocument {
  const end = endsAtMs === Number.POSITIVE_INFINITY ? {} : { endsAtMs };
  return { id, server, readOnly, issuedAtMs, ...end, ...(lastUsedAtMs !== undefined && { lastUsedAtMs }) };
}
