import type { S3Settings } from '../blobs/s3/settings.ts';
import type { Config } from '../config/config.ts';
import { messageOf } from '../config/problems.ts';
import { readAuthorities } from './named-file.ts';

/** The `storage.s3` of a configuration. */
export type S3Config = NonNullable<Config['storage']['s3']>;

/** What S3 is reached with: the section of the configuration, and what it names. Throws ConfigError. */
export async function s3SettingsOf(
  config: S3Config,
  { environment, origin }: Pick<Config, 'environment' | 'origin'>,
) {
  const { region, bucket, pathStyle, redirect, caFile } = config;
  const { endpoint = `https://s3.${region}.amazonaws.com` } = config;
  const prefix = config.prefix === '' || config.prefix.endsWith('/') ? config.prefix : `${config.prefix}/`;
  const ca = await readAuthorities({ path: ['storage', 's3', 'caFile'], file: caFile }, { origin });
  const settings: S3Settings = {
    endpoint,
    region,
    bucket,
    prefix,
    pathStyle,
    redirect,
    ca,
    credentials: credentialsOf(config, environment),
  };
  return settings;
}

/**
 * Why there are no keys for S3 in the environment or the file, whichever the configuration names; `undefined` if there
 * are some, or if they come from the network.
 */
export async function keysTrouble(
  config: S3Config,
  { environment }: Pick<Config, 'environment'>,
): Promise<string | undefined> {
  if (config.credentials !== 'env' && config.credentials !== 'file') return undefined;
  // Loaded only if a bucket is configured.
  const { Credentials } = await import('../blobs/s3/credentials.ts');
  const credentials = new Credentials(credentialsOf(config, environment), config.region);
  try {
    await credentials.current();
    return undefined;
  } catch (error) {
    const { cause = error } = error instanceof Error ? error : {};
    return messageOf(cause);
  } finally {
    await credentials.close();
  }
}

/** The variables are those of AWS's tools. */
function credentialsOf(
  { credentials: from, credentialsFile: file }: S3Config,
  env: Config['environment'],
): S3Settings['credentials'] {
  const accessKeyId = env['AWS_ACCESS_KEY_ID'];
  const secretAccessKey = env['AWS_SECRET_ACCESS_KEY'];
  const sessionToken = env['AWS_SESSION_TOKEN'];
  return {
    from,
    file,
    keys: accessKeyId && secretAccessKey ? { accessKeyId, secretAccessKey, sessionToken } : undefined,
    role: env['AWS_ROLE_ARN'],
    tokenFile: env['AWS_WEB_IDENTITY_TOKEN_FILE'],
    stsUrl: env['AWS_ENDPOINT_URL_STS'],
    metadataUrl: env['AWS_EC2_METADATA_SERVICE_ENDPOINT'],
  };
}
