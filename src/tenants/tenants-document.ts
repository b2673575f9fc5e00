import type { IssuedCredential } from '../oci/issued-credential.ts';
import type { SecretState, Tenant, Tenants } from './tenant.ts';

/** The state of one tenant as JSON, for people and their programs. Contains no secret. */
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

/** What is known of these tenants, with their issued credentials and what counts against their quotas. */
export async function tenantDocuments(
  some: readonly Tenant[],
  tenants: Pick<Tenants, 'lastUsedAtMs'>,
  issued: readonly IssuedCredential[],
  usedBytes: (tenants: readonly string[]) => Promise<ReadonlyMap<string, number>>,
): Promise<readonly TenantDocument[]> {
  const used = await usedBytes(some.map(({ name }) => name));
  const issuedTo = new Map<string, IssuedCredential[]>(some.map(({ name }) => [name, []]));
  for (const credential of issued) issuedTo.get(credential.tenant)?.push(credential);
  return some.map(({ name, suspended, secrets, options }) => ({
    name,
    ...(suspended !== undefined && { suspended }),
    usedBytes: used.get(name) ?? 0,
    quotaBytes: options.quotaBytes ?? null,
    secrets,
    issued: (issuedTo.get(name) ?? []).map(credential =>
      issuedDocument(credential, tenants.lastUsedAtMs(credential.id)),
    ),
  }));
}

function issuedDocument(
  { id, server, readOnly, issuedAtMs, endsAtMs }: IssuedCredential,
  lastUsedAtMs: number | undefined,
): IssuedDocument {
  const end = endsAtMs === Number.POSITIVE_INFINITY ? {} : { endsAtMs };
  return { id, server, readOnly, issuedAtMs, ...end, ...(lastUsedAtMs !== undefined && { lastUsedAtMs }) };
}
