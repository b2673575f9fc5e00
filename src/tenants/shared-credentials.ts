import type { Log } from '../lib/log.ts';
import { nameCredential } from '../oci/credential.ts';
import type { CredentialPlugins } from './credential-plugins.ts';
import type { DockerConfig } from './docker-config.ts';
import { Keyring, type KeyringEntry } from './keyring.ts';
import { NodeConfig } from './node-config.ts';
import type { HeldCredential, SecretOrigin, SecretState } from './tenant.ts';

export interface SharedCredentialsOptions {
  readonly nodeConfig: readonly string[];
  readonly plugins: Pick<CredentialPlugins, 'configsFor'> | undefined;
  readonly credentialKey: string;
  readonly log: Log;
  readonly nowMs: () => number;
  /** Told which credentials the node has or had. */
  readonly onChange: (credentialIds: ReadonlySet<string>) => void;
}

/** Credentials that all tenants have behind their own: the node's docker config, and what plugins obtain. */
export class SharedCredentials {
  readonly #options: SharedCredentialsOptions;
  readonly #node: NodeConfig;
  #keyring = new Keyring<string>([]);
  #ids: ReadonlySet<string> = new Set();

  constructor(options: SharedCredentialsOptions) {
    this.#options = options;
    const { nodeConfig: paths, log, nowMs } = options;
    this.#node = new NodeConfig({ paths, log, nowMs, onChange: () => this.#follow() });
  }

  get states(): readonly SecretState[] {
    return this.#node.states;
  }

  /** Whether the node has it. What plugins gave ends by itself. */
  has(credentialId: string): boolean {
    return this.#ids.has(credentialId);
  }

  start(): Promise<void> {
    return this.#node.start();
  }

  close(): Promise<void> {
    return this.#node.close();
  }

  /** In the kubelet's order: the node, then the plugins, each looked up by itself. */
  async lookup(image: string): Promise<readonly HeldCredential[]> {
    const { plugins, credentialKey } = this.#options;
    const node = this.#keyring.lookup(image).map(entry => held(entry, 'node', credentialKey));
    const configs = (await plugins?.configsFor(image)) ?? [];
    const obtained = new Keyring([configs]).lookup(image);
    return [...node, ...obtained.map(entry => held(entry, 'plugin', credentialKey))];
  }

  #follow(): void {
    const current = this.#node.current;
    this.#keyring = new Keyring([current === undefined ? [] : [sourceOf(current)]]);
    const before = this.#ids;
    this.#ids = new Set(
      this.#keyring
        .entries()
        .map(({ username, password }) => nameCredential(this.#options.credentialKey, username, password).id),
    );
    this.#options.onChange(new Set([...before, ...this.#ids]));
  }
}

/** An entry of a keyring as something to try upstream. */
export function held(
  { username, password, source, key }: KeyringEntry<string>,
  origin: SecretOrigin,
  credentialKey: string,
): HeldCredential {
  const credential = username === '' ? undefined : nameCredential(credentialKey, username, password);
  return { credential, secret: source, source: origin, matchedKey: key };
}

function sourceOf({ path, config }: { readonly path: string; readonly config: DockerConfig }) {
  return { source: path, config };
}
