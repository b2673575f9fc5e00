import { describe, expect, it } from 'vitest';
import { loadConfig } from '../config/load.ts';
import { bannerText } from './banner.ts';

const running = { addresses: [{ address: '127.0.0.1:5000' }], opsAddress: '127.0.0.1:5001' };

describe('the banner', () => {
  it('says what is served where and how to point a node at it', async () => {
    const config = await loadConfig({ env: {}, overrides: { storage: { path: '/data' } } });
    expect(bannerText(config, running, '1.2.3')).toBe(`Entrepot 1.2.3

  http://127.0.0.1:5000  mirrors docker.io, registry.k8s.io, ghcr.io, quay.io, gcr.io, mcr.microsoft.com, public.ecr.aws
  http://127.0.0.1:5001  /livez, /readyz, /metrics
  storage                /data

  Try it:           skopeo inspect --tls-verify=false docker://127.0.0.1:5000/docker.io/library/nginx
  Point a node at:  entrepot hosts containerd|crio|docker|k3s --server http://127.0.0.1:5000

`);
  });

  it('warns about what is open to all, and says what anybody may do with hosted repositories', async () => {
    const overrides = {
      server: { listen: '0.0.0.0:5000' },
      upstreams: {
        'ghcr.io': { openToAll: true },
        'quay.io': { repositories: [{ match: 'org/*', openToAll: true }] },
      },
      hosted: { prefixes: 'tools', anonymous: 'push', anonymousBeyondLoopback: true },
    };
    const text = bannerText(await loadConfig({ env: {}, overrides }), running, '1.2.3');
    expect(text).toContain(
      "Open to all: anonymous clients may read whatever Entrepot's credentials can read of ghcr.io, quay.io/org/*.",
    );
    expect(text).toContain('everybody may pull and push');
    expect(text).toContain('hosts tools/…');
  });

  it('says that an offline registry asks no upstream', async () => {
    const config = await loadConfig({ env: {}, overrides: { offline: true } });
    expect(bannerText(config, running, '1.2.3')).toContain('Offline: no upstream is contacted');
  });

  it('shows a port that belongs to one upstream, and an address that nodes can use', async () => {
    const config = await loadConfig({ env: {} });
    const addresses = [{ address: '0.0.0.0:5000' }, { address: '0.0.0.0:5002', upstream: 'docker.io' }];
    const text = bannerText(config, { addresses, opsAddress: undefined }, '1.2.3');
    expect(text).toContain('http://0.0.0.0:5002  docker.io only');
    expect(text).toContain('docker://127.0.0.1:5000/docker.io');
    expect(text).toContain('--server http://THIS-MACHINE:5000');
  });
});
