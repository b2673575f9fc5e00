import type { IssuedCredential } from '../oci/issued-credential.ts';
import type { PassedOver } from './secret-source.ts';
import type { RefusedTenant, SecretState, Tenants } from './tenant.ts';

/** The state of all tenants as JSON, for people and their programs. Contains no secret. */
export interface TenantsDocument {
  /** Sources that cannot be followed now, so that the rest may be outdated. */
  readonly problems: readonly string[];
  /** Objects that are too large to be read, and count as absent or as they were. */
  readonly passedOver: readonly PassedOver[];
  /** The node's Docker config, which all tenants share. */
  readonly node: readonly SecretState[];
  /** Namespaces and added tenants whose name is taken. */
  readonly refused: readonly RefusedTenant[];
  readonly tenants: readonly TenantDocument[];
}

/** The state of one tenant. */
export interface TenantDocument {
  readonly name: string;
  readonly suspended?: string;
  /** The size of its repositories, as counted by its quota. */
  readonly usedBytes: number;
  /** `null` for no limit. */
  readonly quotaBytes: number | null;
  readonly secrets: readonly SecretState[];
  readonly issued: readonly IssuedDocument[];
}

/** A credential issued to the tenant; without `endsAtMs` it does not end. */
export interface IssuedDocument {
  readonly id: string;
  readonly server: string;
  readonly readOnly: boolean;
  readonly issuedAtMs: number;
  readonly endsAtMs?: number;
  readonly lastUsedAtMs?: number;
}

/** What the running server knows of its tenants, with their issued credentials and what counts against their quotas. */
export async function tenantsDocument(
  tenants: Tenants,
  issued: readonly IssuedCredential[],
  usedBytes: (tenants: readonly string[]) => Promise<ReadonlyMap<string, number>>,
): Promise<TenantsDocument> {
  const all = tenants.list();
  const used = await usedBytes(all.map(({ name }) => name));
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
