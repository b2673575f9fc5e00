import type { Clock } from '../lib/clock.ts';
import { type Log, silentLog } from '../lib/log.ts';
import { nameCredential } from '../oci/credential.ts';
import type { CredentialPlugins } from './credential-plugins.ts';
import { HeldCredentials } from './held-credentials.ts';
import { Keyring } from './keyring.ts';
import { NodeConfig } from './node-config.ts';
import type { HeldCredential, SecretState } from './tenant.ts';

export interface SharedCredentialsOptions {
  /** Files and folders, as in `NodeConfigOptions`; none if empty. */
  readonly nodeConfig: readonly string[];
  /** `undefined` if none are configured. */
  readonly plugins: Pick<CredentialPlugins, 'configsFor' | 'close'> | undefined;
  readonly credentialKey: string;
  readonly reportsSecretsOf?: ((tenant: undefined) => boolean) | undefined;
  readonly log: Log;
  readonly clock: Clock;
  /** Called with credentials that the node's config has gained or lost. */
  readonly onChange: (credentialIds: ReadonlySet<string>) => void;
}

/**
 * Credentials that all tenants use after their own: those of the node's Docker config, and those that plugins provide.
 */
export class SharedCredentials {
  readonly #options: SharedCredentialsOptions;
  readonly #node: NodeConfig;
  readonly #ofNode: HeldCredentials<string>;
  readonly #ofPlugins: HeldCredentials<string>;
  #keyring = new Keyring<string>([]);
  #ids: ReadonlySet<string> = new Set();

  constructor(options: SharedCredentialsOptions) {
    this.#options = options;
    const { nodeConfig: paths, credentialKey, clock, reportsSecretsOf } = options;
    const log = reportsSecretsOf?.(undefined) === false ? silentLog : options.log;
    this.#ofNode = new HeldCredentials(credentialKey, name => ({ name, source: 'node' }));
    this.#ofPlugins = new HeldCredentials(credentialKey, name => ({ name, source: 'plugin' }));
    this.#node = new NodeConfig({ paths, log, clock, onChange: () => this.#follow() });
  }

  get states(): readonly SecretState[] {
    return this.#node.states;
  }

  /** The node's file that counts, if any. */
  get current(): string | undefined {
    return this.#node.current?.path;
  }

  /** The credentials in it. */
  get credentialIds(): ReadonlySet<string> {
    return this.#ids;
  }

  /** Whether the node's config has the credential. Credentials of plugins expire by themselves. */
  has(credentialId: string): boolean {
    return this.#ids.has(credentialId);
  }

  start(): Promise<void> {
    return this.#node.start();
  }

  close(): Promise<void> {
    this.#options.plugins?.close();
    return this.#node.close();
  }

  /** In the kubelet's order: first the node's, then the plugins'. `asker` as in CredentialPlugins. */
  async lookup(image: string, asker?: string): Promise<readonly HeldCredential[]> {
    const node = this.#keyring.lookup(image).map(entry => this.#ofNode.of(entry));
    const { plugins } = this.#options;
    if (plugins === undefined) return node;
    const obtained = new Keyring([await plugins.configsFor(image, asker)]).lookup(image);
    return [...node, ...obtained.map(entry => this.#ofPlugins.of(entry))];
  }

  #follow(): void {
    const current = this.#node.current;
    const configs = current === undefined ? [] : [{ source: current.path, config: current.config }];
    this.#keyring = new Keyring([configs]);
    const before = this.#ids;
    this.#ids = new Set(
      this.#keyring
        .entries()
        .map(({ username, password }) => nameCredential(this.#options.credentialKey, username, password).id),
    );
    this.#options.onChange(new Set([...before, ...this.#ids]));
  }
}
