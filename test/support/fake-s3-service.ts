// The S3 in memory as a program, with the keys and the port that docker-compose.replicas.yml gives to Versity's gateway.
import { argv, env } from 'node:process';
import { parseArgs } from 'node:util';
import { FakeS3 } from './fake-s3.ts';

const { values } = parseArgs({
  args: argv.slice(2),
  options: { port: { type: 'string' }, region: { type: 'string' } },
  strict: false,
});
const port = Number(String(values['port']).replace(':', ''));
const s3 = await FakeS3.start({ address: '0.0.0.0', port, region: String(values['region']) });
s3.keys = {
  accessKeyId: env['ROOT_ACCESS_KEY_ID'] ?? '',
  secretAccessKey: env['ROOT_SECRET_ACCESS_KEY'] ?? '',
};
process.once('SIGTERM', () => process.exit());
