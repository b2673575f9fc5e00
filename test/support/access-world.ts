// Access with an index in memory, and with tenants whose Secrets a test adds and removes.
import { Access, type AccessOptions } from '../../src/access/access.ts';
import type { ServiceAccount } from '../../src/access/authenticator.ts';
import { Grants } from '../../src/grants/grants.ts';
import type { UpstreamRule } from '../../src/access/mirrored-rights.ts';
import { TokenKeys } from '../../src/access/token-keys.ts';
import { Tokens } from '../../src/access/tokens.ts';
import { VerificationPolicy, type VerificationPolicyName } from '../../src/grants/verification.ts';
import type { Sender } from '../../src/access/subject.ts';
import { systemClock } from '../../src/lib/clock.ts';
import { type Log, silentLog } from '../../src/lib/log.ts';
import { silentMeter } from '../../src/lib/meter.ts';
import { MemoryIndex } from '../../src/metadata/memory-metadata-store.fixture.ts';
import type { MetadataStore } from '../../src/metadata/metadata-store.ts';
import { type Credential, nameCredential } from '../../src/oci/credential.ts';
import type { Repository } from '../../src/oci/repository.ts';
import { Issuer } from '../../src/tenants/issuer.ts';
import { openTenants } from '../../src/tenants/tenant-directory.ts';
import type {
  SecretReading,
  SecretSink,
  SecretSource,
  TenantReading,
} from '../../src/tenants/secret-source.ts';
import type { TenantOptions, Tenants } from '../../src/tenants/tenant.ts';
import { basic, type Login } from './tenants.ts';

export const SERVER = 'registry.example:5000';
const KEY = 'test';
const HOUR_MS = 3_600_000;

/** A client on this machine that sends nothing. */
export const SENDER: Sender = {
  connection: {},
  authorization: undefined,
  remote: '192.0.2.1',
  secure: true,
  loopback: false,
  host: SERVER,
  upstreamListener: undefined,
  byHostAlias: false,
  byNamespace: false,
};

export interface AccessWorldOptions
  extends Partial<Pick<AccessOptions, 'unknownCredentials' | 'allowPlainCredentials'>> {
  readonly configured?: Readonly<Record<string, TenantOptions>>;
  readonly rule?: Partial<UpstreamRule>;
  readonly policy?: VerificationPolicyName;
  readonly allowlist?: readonly string[];
  readonly shared?: readonly string[];
  /** The prefixes of repositories that no tenant owns. */
  readonly prefixes?: readonly string[];
  readonly anonymous?: 'none' | 'pull' | 'push';
  readonly readOnly?: boolean;
  readonly delete?: boolean;
  readonly accounts?: Readonly<Record<string, ServiceAccount>>;
  readonly log?: Log;
}

export class AccessWorld {
  readonly access: Access;
  readonly metadata: MetadataStore;
  readonly tenants: Tenants;
  readonly grants: Grants;
  readonly tokens: Tokens;
  readonly issuer: Issuer;
  readonly #secrets: ScriptedSecrets;
  readonly #stores: readonly MetadataStore[];
  /** The clock of Grants and tokens; move it at will. */
  readonly clock: { nowMs: number };
  /** Call these after changing `accounts`. */
  readonly accountListeners: readonly (() => void)[];

  private constructor(
    parts: Pick<
      AccessWorld,
      'access' | 'metadata' | 'tenants' | 'grants' | 'tokens' | 'issuer' | 'clock' | 'accountListeners'
    >,
    secrets: ScriptedSecrets,
    stores: readonly MetadataStore[],
  ) {
    this.access = parts.access;
    this.metadata = parts.metadata;
    this.tenants = parts.tenants;
    this.grants = parts.grants;
    this.tokens = parts.tokens;
    this.issuer = parts.issuer;
    this.clock = parts.clock;
    this.accountListeners = parts.accountListeners;
    this.#secrets = secrets;
    this.#stores = stores;
  }

  static async open(options: AccessWorldOptions = {}): Promise<AccessWorld> {
    const log = options.log ?? silentLog;
    const index = new MemoryIndex();
    const metadata = index.open();
    const secrets = new ScriptedSecrets();
    const nameProblem = (name: string) =>
      options.prefixes?.includes(name) === true ? 'is a prefix' : undefined;
    const issuing = { store: metadata, credentialKey: KEY, nameProblem };
    const tenants = await openTenants({
      ...issuing,
      sources: [secrets],
      configured: Object.entries(options.configured ?? {}).map(([name, own]) => ({ name, options: own })),
      nodeConfig: [],
      plugins: undefined,
      log,
      meter: silentMeter,
    });
    const clock = { nowMs: Date.now() };
    const nowMs = () => clock.nowMs;
    const grants = new Grants(
      metadata,
      { verifyForMs: HOUR_MS, staleGrantForMs: HOUR_MS },
      { ...systemClock, nowMs },
      id => tenants.isHeld(id),
    );
    const tokens = new Tokens(new TokenKeys(metadata, nowMs), SERVER, nowMs);
    const verification = new VerificationPolicy(
      options.policy ?? 'NeverVerifyPreloadedImages',
      options.allowlist ?? [],
    );
    const accountListeners: (() => void)[] = [];
    const access = new Access({
      tenants,
      grants,
      tokens,
      nameCredential: (username, password) => nameCredential(KEY, username, password),
      serviceAccounts: {
        verify: async token => options.accounts?.[token],
        has: (namespace, uid) =>
          Object.values(options.accounts ?? {}).some(
            account => account.namespace === namespace && account.uid === uid,
          ),
        onChange: listener => void accountListeners.push(listener),
      },
      upstreamRule: () => ({
        credential: undefined,
        openToAll: false,
        anonymousFallback: false,
        imagesOf: ({ upstream, name }) => [`${upstream}/${name}`],
        verification,
        ...options.rule,
      }),
      hosted: {
        anonymous: options.anonymous ?? 'none',
        shared: options.shared ?? [],
        prefixes: options.prefixes ?? [],
        readOnly: options.readOnly ?? false,
        delete: options.delete ?? true,
      },
      serverNames: [SERVER],
      unknownCredentials: options.unknownCredentials ?? 'refuse',
      externalUrl: undefined,
      allowPlainCredentials: options.allowPlainCredentials ?? false,
      nameInScope: name => name,
      log,
      meter: silentMeter,
    });
    tenants.onChange(({ goneCredentialIds }) => {
      for (const id of goneCredentialIds) void grants.endAllOf(id);
    });
    // Like the command line: another process on the same store.
    const commands = index.open();
    const issuer = new Issuer({ ...issuing, store: commands });
    const stores = [metadata, commands];
    return new AccessWorld(
      { access, metadata, tenants, grants, tokens, issuer, clock, accountListeners },
      secrets,
      stores,
    );
  }

  /** Sets the tenant's only Secret: logins by registry; what its accounts may do; and the UID of its namespace. */
  async put(
    tenant: string,
    logins: Readonly<Record<string, Login>>,
    { accountsMayPush = false, uid }: { readonly accountsMayPush?: boolean; readonly uid?: string } = {},
  ): Promise<void> {
    this.#secrets.put(tenant, logins, { accountsMayPush, ...(uid !== undefined && { uid }) });
    await new Promise(resolve => setImmediate(resolve));
  }

  /** Gives the tenant a Secret that was never readable, followed by one with these logins. */
  async break(tenant: string, logins: Readonly<Record<string, Login>>): Promise<void> {
    this.#secrets.break(tenant, logins);
    await new Promise(resolve => setImmediate(resolve));
  }

  async remove(tenant: string): Promise<void> {
    this.#secrets.remove(tenant);
    await new Promise(resolve => setImmediate(resolve));
  }

  /** A client that sends this login with each request. */
  async as(login: Login | undefined, sender: Partial<Sender> = {}) {
    const sent = login === undefined ? {} : basic(login);
    return this.access.authenticate({ ...SENDER, ...sent, ...sender });
  }

  /** Records that upstream accepted or refused this login. */
  async prove(
    repository: Repository,
    login: Login | undefined,
    outcome: 'granted' | 'ended' = 'granted',
  ): Promise<void> {
    await this.grants.record({
      upstream: repository.upstream,
      repository: repository.name,
      credentialId: login === undefined ? '' : named(login).id,
      outcome,
    });
  }

  async close(): Promise<void> {
    await this.tenants.close();
    for (const store of this.#stores) await store.close();
  }
}

/** The credential with its id in the store of an AccessWorld. */
export function named([username, password]: Login): Credential {
  return nameCredential(KEY, username, password);
}

class ScriptedSecrets implements SecretSource {
  #sink: SecretSink | undefined;

  async start(sink: SecretSink): Promise<void> {
    this.#sink = sink;
  }

  async close(): Promise<void> {}

  put(
    tenant: string,
    logins: Readonly<Record<string, Login>>,
    namespace: Pick<TenantReading, 'accountsMayPush' | 'uid'>,
  ): void {
    this.#sink?.put(tenant, { secrets: [readingOf(logins)], ...namespace });
  }

  break(tenant: string, logins: Readonly<Record<string, Login>>): void {
    const result = { state: 'malformed', reason: 'invalid JSON' } as const;
    this.#sink?.put(tenant, { secrets: [{ name: 'bad', source: 'file', result }, readingOf(logins)] });
  }

  remove(tenant: string): void {
    this.#sink?.remove(tenant);
  }
}

function readingOf(logins: Readonly<Record<string, Login>>): SecretReading {
  const config = new Map(
    Object.entries(logins).map(([key, [username, password]]) => [key, { username, password, email: '' }]),
  );
  const secret = { name: 'pull', config };
  return { name: 'pull', source: 'file', result: { state: 'loaded', secret } };
}
