import { randomBytes } from 'node:crypto';
import { type Credential, nameCredential } from '../oci/credential.ts';
import type { IssuedCredential } from '../oci/issued-credential.ts';
import { ADOPT_NEXT_UID, type TenantStore } from './tenant-store.ts';

/** Tells whoever finds one, man or scanner, what it is. */
const PASSWORD_PREFIX = 'entrepot_';

/** Whether it looks like one that a registry such as this issued. */
export function isIssuedPassword(password: string): boolean {
  return password.startsWith(PASSWORD_PREFIX);
}

/** 256 bits: never guessed. */
const PASSWORD_BYTES = 32;

/** When what is ended by hand has ended: before the time of any clock, so that it stays so when the clock is set back. */
const LONG_AGO_MS = 0;

/** There is no such tenant, or it has nothing of the kind. */
export class UnknownTenant extends Error {
  override readonly name = 'UnknownTenant';
}

export interface IssuerOptions {
  readonly store: TenantStore;
  readonly credentialKey: string;
  /** Why no tenant may have a name; `undefined` if one may. */
  readonly nameProblem: (name: string) => string | undefined;
  readonly nowMs?: () => number;
}

/** What a credential is issued for. */
export interface IssueRequest {
  readonly tenant: string;
  /** The key under which clients keep it: this registry's name, perhaps with the path that bounds it. */
  readonly server: string;
  readonly readOnly: boolean;
}

/**
 * Adds and removes tenants, and issues this registry's credentials to them. Only hashes are kept: a password is shown once. Running
 * servers follow within a second.
 */
export class Issuer {
  readonly #options: IssuerOptions;

  constructor(options: IssuerOptions) {
    this.#options = options;
  }

  /** False when there is one of that name already. */
  async addTenant(name: string): Promise<boolean> {
    const problem = this.#options.nameProblem(name);
    if (problem !== undefined) throw new RangeError(`no tenant can be named ${name}: it ${problem}`);
    const known = await this.#options.store.listKnownTenants();
    if (known.some(tenant => tenant.name === name)) return false;
    await this.#options.store.putKnownTenants([{ name, uid: undefined }]);
    await this.#options.store.notify('secrets');
    return true;
  }

  /** Forgets a tenant and ends what was issued to it; returns what has ended by that. */
  async removeTenant(name: string): Promise<readonly IssuedCredential[]> {
    const meant = await this.#issued(({ tenant }) => tenant === name);
    await this.#options.store.putIssuedCredentials(meant.map(endedLongAgo));
    await this.#options.store.removeKnownTenant(name);
    await this.#options.store.notify('secrets');
    return meant.filter(one => this.#isLive(one));
  }

  /** What was issued to the tenant and still counts. */
  async listLive(tenant: string): Promise<readonly IssuedCredential[]> {
    const issued = await this.#issued(one => one.tenant === tenant);
    return issued.filter(one => this.#isLive(one));
  }

  /** Binds the tenant to the namespace of its name that is there now. */
  async adoptTenant(name: string): Promise<void> {
    const known = await this.#options.store.listKnownTenants();
    if (!known.some(tenant => tenant.name === name))
      throw new UnknownTenant(`there is no tenant named ${name}`);
    await this.#options.store.putKnownTenants([{ name, uid: ADOPT_NEXT_UID }]);
    await this.#options.store.notify('secrets');
  }

  /** A new credential beside those that there are. */
  async issue(request: IssueRequest): Promise<Credential> {
    const [credential, issued] = this.#make(request);
    await this.#put([issued]);
    return credential;
  }

  /** A new credential in place of all that the tenant has for the server, which end after `overlapMs`. */
  async rotate(request: IssueRequest, overlapMs: number): Promise<Credential> {
    const [credential, issued] = this.#make(request);
    const old = await this.#issued(
      ({ tenant, server }) => tenant === request.tenant && server === request.server,
    );
    const endsAtMs = overlapMs === 0 ? LONG_AGO_MS : this.#nowMs() + overlapMs;
    await this.#put([issued, ...old.map(one => ({ ...one, endsAtMs: Math.min(one.endsAtMs, endsAtMs) }))]);
    return credential;
  }

  /** Ends what was issued to the tenant, or one credential of it, at once; returns what has ended by that. */
  async revoke(tenant: string, credentialId?: string): Promise<readonly IssuedCredential[]> {
    const meant = await this.#issued(
      one => one.tenant === tenant && (credentialId === undefined || one.id === credentialId),
    );
    const live = meant.filter(one => this.#isLive(one));
    if (live.length === 0) throw new UnknownTenant(`${tenant} has no such credential`);
    // With those that have ended by the clock, which may be wrong.
    await this.#put(meant.map(endedLongAgo));
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

  async #put(credentials: readonly IssuedCredential[]): Promise<void> {
    await this.#options.store.putIssuedCredentials(credentials);
    await this.#options.store.notify('secrets');
  }

  #nowMs(): number {
    return (this.#options.nowMs ?? Date.now)();
  }
}

function endedLongAgo(credential: IssuedCredential): IssuedCredential {
  return { ...credential, endsAtMs: LONG_AGO_MS };
}
