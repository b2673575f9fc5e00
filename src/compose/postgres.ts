import type { Config } from '../config/config.ts';
import { ConfigError } from '../config/problems.ts';
import type { PostgresSettings } from '../metadata/postgres/postgres-settings.ts';
import { readAuthorities, readNamedFile } from './named-file.ts';

/** The `index.postgres` of a configuration. */
export type PostgresConfig = NonNullable<Config['index']['postgres']>;

const SECTION = ['index', 'postgres'];

const DEFAULTS = { port: 5432, database: 'entrepot', user: 'entrepot' };

/** What PostgreSQL is reached with: the section of the configuration, and what it names. Throws ConfigError. */
export async function postgresSettingsOf(
  config: PostgresConfig,
  { environment, origin }: Pick<Config, 'environment' | 'origin'>,
): Promise<PostgresSettings> {
  const { passwordFile, passwordEnv, tls, poolSize, schema } = config;
  await readNamedFile({ path: [...SECTION, 'passwordFile'], file: passwordFile }, { origin });
  const password = passwordEnv === undefined ? undefined : environment[passwordEnv];
  if (passwordEnv !== undefined && !password) {
    const message = 'expected an environment variable that is set and not empty';
    const path = [...SECTION, 'passwordEnv'];
    throw new ConfigError([{ path, value: passwordEnv, message, source: origin.sourceOf(path) }]);
  }
  const ca = await readAuthorities({ path: [...SECTION, 'tls', 'caFile'], file: tls?.caFile }, { origin });
  return { ...placeOf(config), password, passwordFile, tls: tls && { ca }, poolSize, schema };
}

function placeOf({ url: text, host = '', port, database, user }: PostgresConfig) {
  if (text === undefined) {
    return {
      host,
      port: port ?? DEFAULTS.port,
      database: database ?? DEFAULTS.database,
      user: user ?? DEFAULTS.user,
    };
  }
  const url = new URL(text);
  return {
    // An IPv6 address has brackets in a URL.
    host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
    port: url.port === '' ? DEFAULTS.port : Number(url.port),
    database: decodeURIComponent(url.pathname.slice(1)),
    user: url.username === '' ? DEFAULTS.user : decodeURIComponent(url.username),
  };
}
