import { deserialize, serialize } from 'node:v8';
import { expect, it } from 'vitest';
import { loadConfig } from '../../config/load.ts';
import { planReload } from '../../config/reload.ts';
import { receivedConfig, sentConfig } from './protocol.ts';

it('a configuration arrives as it was sent, with everything that is read from it', async () => {
  const config = await loadConfig({
    env: { HTTPS_PROXY: 'http://proxy.example:3128' },
    overrides: {
      server: { listen: [{ address: '[::1]:5000', upstream: 'docker.io' }], processes: 'auto' },
      upstreams: {
        'up.example': {
          freshFor: 'forever',
          platforms: 'windows/amd64:10.0.20348',
          allowAddresses: '10.0.0.0/8',
          repositories: [{ match: 'library/*', pullPolicy: 'Always' }],
        },
      },
      storage: { minFree: '5%' },
      hosted: { prefixes: 'tools', shared: 'tools/**' },
      tenants: [{ name: 'team-a', quotaBytes: '1GiB', repositories: ['docker.io/library'] }],
      runtimeHandlers: { wasm: 'linux/amd64' },
    },
  });
  const received = receivedConfig(deserialize(serialize(sentConfig(config))));
  expect(planReload(config, received)).toMatchObject({ changed: [], needsRestart: [] });
  const { origin: sentOrigin, ...sent } = config;
  const { origin, ...rest } = received;
  expect(rest).toEqual(sent);
  expect(origin.sourceOf(['server'])).toBe('the configuration');
  expect(origin.file).toBe(sentOrigin.file);
});
