import { randomBytes } from 'node:crypto';
import { type Credential, nameCredential } from '../oci/credential.ts';
import type { IssuedCredential } from '../oci/issued-credential.ts';
import { ADOPT_NEXT_UID, type AskedDuring, type TenantStore } from './tenant-store.ts';

/** Identifies such a password to people and secret scanners. */
const PASSWORD_PREFIX = 'entrepot_';

/** Whether a password looks like one issued by Entrepot. */
export function isIssuedPassword(password: string): boolean {
  return password.startsWith(PASSWORD_PREFIX);
}

/** 256 bits: cannot be guessed. */
const PASSWORD_BYTES = 32;

/** The end of a revoked credential: earlier than any clock, so that it stays revoked when the clock is set back. */
const LONG_AGO_MS = 0;

/** There is no such tenant, or it has no such credential. */
export class UnknownTenant extends Error {
  override readonly name = 'UnknownTenant';
}

export interface IssuerOptions {
  readonly store: TenantStore;
  /** The key of the hashes under which credentials are stored. */
  readonly credentialKey: string;
  /** Why no tenant may have a name; `undefined` if one may. */
  readonly nameProblem: (name: string) => string | undefined;
  /** Default: the system's clock. */
  readonly nowMs?: () => number;
}

/** A request for a credential. */
export interface IssueRequest {
  readonly tenant: string;
  /** The key under which clients store it: the name of this registry, perhaps with a path that limits it. */
  readonly server: string;
  readonly readOnly: boolean;
}

/**
 * Adds and removes tenants, and issues this registry's credentials to them. Only hashes are stored: a password is shown
 * once. Running servers notice changes within a second.
 */
export class Issuer {
  readonly #options: IssuerOptions;

  constructor(options: IssuerOptions) {
    this.#options = options;
  }

  /** False if the tenant exists already. */
  async addTenant(name: string, asked?: AskedDuring): Promise<boolean> {
    const problem = this.#options.nameProblem(name);
    if (problem !== undefined) throw new RangeError(`no tenant can be named ${name}: it ${problem}`);
    const known = await this.#options.store.listKnownTenants();
    if (known.some(tenant => tenant.name === name)) return false;
    await this.#options.store.putKnownTenants([{ name, uid: undefined }], asked);
    await this.#options.store.notify('secrets');
    return true;
  }

  /** Removes a tenant and ends its credentials; returns those that ended. */
  async removeTenant(name: string, asked?: AskedDuring): Promise<readonly IssuedCredential[]> {
    const meant = await this.#issued(({ tenant }) => tenant === name);
    await this.#options.store.putIssuedCredentials(meant.map(endedLongAgo), asked);
    await this.#options.store.removeKnownTenant(name, asked);
    await this.#options.store.notify('secrets');
    return meant.filter(one => this.#isLive(one));
  }

  /** The tenant's credentials that have not ended. */
  async listLive(tenant: string): Promise<readonly IssuedCredential[]> {
    const issued = await this.#issued(one => one.tenant === tenant);
    return issued.filter(one => this.#isLive(one));
  }

  /** Binds the tenant to the current namespace of its name. */
  async adoptTenant(name: string, asked?: AskedDuring): Promise<void> {
    const known = await this.#options.store.listKnownTenants();
    if (!known.some(tenant => tenant.name === name))
      throw new UnknownTenant(`there is no tenant named ${name}`);
    await this.#options.store.putKnownTenants([{ name, uid: ADOPT_NEXT_UID }], asked);
    await this.#options.store.notify('secrets');
  }

  /** Issues a credential in addition to existing ones. */
  async issue(request: IssueRequest, asked?: AskedDuring): Promise<Credential> {
    const [credential, issued] = this.#make(request);
    await this.#put([issued], asked);
    return credential;
  }

  /** Issues a credential that replaces all that the tenant has for the server, which end after `overlapMs`. */
  async rotate(request: IssueRequest, overlapMs: number, asked?: AskedDuring): Promise<Credential> {
    const [credential, issued] = this.#make(request);
    const old = await this.#issued(
      ({ tenant, server }) => tenant === request.tenant && server === request.server,
    );
    const endsAtMs = overlapMs === 0 ? LONG_AGO_MS : this.#nowMs() + overlapMs;
    await this.#put(
      [issued, ...old.map(one => ({ ...one, endsAtMs: Math.min(one.endsAtMs, endsAtMs) }))],
      asked,
    );
    return credential;
  }

  /**
   * Ends the tenant's credentials, or one of them, at once; returns those that ended. Throws UnknownTenant if there are
   * none, or all had ended before.
   */
  async revoke(
    tenant: string,
    credentialId?: string,
    asked?: AskedDuring,
  ): Promise<readonly IssuedCredential[]> {
    const meant = await this.#issued(
      one => one.tenant === tenant && (credentialId === undefined || one.id === credentialId),
    );
    // Including those that have ended by the clock, which may be wrong.
    if (meant.length > 0) await this.#put(meant.map(endedLongAgo), asked);
    const live = meant.filter(one => this.#isLive(one));
    if (live.length === 0) {
      throw new UnknownTenant(
        credentialId === undefined
          ? `${tenant} has no credentials that are still valid`
          : `${tenant} has no such credential`,
      );
    }
    return live;
  }

  #make({ tenant, server, readOnly }: IssueRequest): readonly [Credential, IssuedCredential] {
    const password = PASSWORD_PREFIX + randomBytes(PASSWORD_BYTES).toString('base64url');
    const credential = nameCredential(this.#options.credentialKey, tenant, password);
    const issued: IssuedCredential = {
      id: credential.id,
      tenant,
      username: tenant,
      server,
      readOnly,
      issuedAtMs: this.#nowMs(),
      endsAtMs: Number.POSITIVE_INFINITY,
    };
    return [credential, issued];
  }

  async #issued(isMeant: (credential: IssuedCredential) => boolean): Promise<readonly IssuedCredential[]> {
    return (await this.#options.store.listIssuedCredentials()).filter(isMeant);
  }

  #isLive({ endsAtMs }: IssuedCredential): boolean {
    return endsAtMs > this.#nowMs();
  }

  async #put(credentials: readonly IssuedCredential[], asked?: AskedDuring): Promise<void> {
    await this.#options.store.putIssuedCredentials(credentials, asked);
    await this.#options.store.notify('secrets');
  }

  #nowMs(): number {
    return (this.#options.nowMs ?? Date.now)();
  }
}

function endedLongAgo(credential: IssuedCredential): IssuedCredential {
  return { ...credential, endsAtMs: LONG_AGO_MS };
}
