import { expect, it } from 'vitest';
import { loadConfig } from '../config/load.ts';
import { s3SettingsOf } from './s3.ts';

it('the settings for S3 include those in the variables of AWS’s tools', async () => {
  const env = {
    AWS_ACCESS_KEY_ID: 'id',
    AWS_SECRET_ACCESS_KEY: 'secret',
    AWS_SESSION_TOKEN: 'token',
    AWS_ROLE_ARN: 'arn:role',
    AWS_WEB_IDENTITY_TOKEN_FILE: '/run/token',
    AWS_ENDPOINT_URL_STS: 'https://sts.example',
    AWS_EC2_METADATA_SERVICE_ENDPOINT: 'http://metadata.example',
  };
  const { storage, ...config } = await loadConfig({
    env,
    overrides: { storage: { s3: { bucket: 'blobs' } } },
  });
  if (storage.s3 === undefined) throw new Error('no bucket');
  expect((await s3SettingsOf(storage.s3, config)).credentials).toMatchObject({
    keys: { accessKeyId: 'id', secretAccessKey: 'secret', sessionToken: 'token' },
    role: 'arn:role',
    tokenFile: '/run/token',
    stsUrl: 'https://sts.example',
    metadataUrl: 'http://metadata.example',
  });
});
