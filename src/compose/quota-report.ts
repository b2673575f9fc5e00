import type { PrefixQuota } from '../hosted/quota.ts';
import type { Meter } from '../lib/meter.ts';
import type { Tenant } from '../tenants/tenant.ts';

/** Returns all current tenants. */
interface TenantList {
  list(): readonly Pick<Tenant, 'name' | 'options'>[];
}

/**
 * Reports as metrics how much of its quota each tenant uses. Quotas are only in the configuration, so there are no more
 * labels than tenants in it.
 */
export class QuotaReport {
  readonly #tenants: TenantList;
  readonly #quota: Pick<PrefixQuota, 'usedBytes'>;
  readonly #meter: Meter;
  #reported: readonly string[] = [];

  constructor(tenants: TenantList, quota: Pick<PrefixQuota, 'usedBytes'>, meter: Meter) {
    this.#tenants = tenants;
    this.#quota = quota;
    this.#meter = meter;
  }

  async report(): Promise<void> {
    const limited = this.#tenants.list().filter(({ options }) => options.quotaBytes !== undefined);
    const names = limited.map(({ name }) => name);
    // A reload may have removed the tenant or its quota.
    for (const name of this.#reported) if (!names.includes(name)) this.#set(name, undefined, undefined);
    this.#reported = names;
    const used = await this.#quota.usedBytes(names);
    for (const { name, options } of limited) this.#set(name, used.get(name), options.quotaBytes);
  }

  #set(tenant: string, usedBytes: number | undefined, quotaBytes: number | undefined): void {
    this.#meter.gauge('tenant_used_bytes', usedBytes, { tenant });
    this.#meter.gauge('tenant_quota_bytes', quotaBytes, { tenant });
  }
}
