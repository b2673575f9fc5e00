import { describe, expect, it } from 'vitest';
import { OciError } from './errors.ts';
import { repositoryText } from './repository.ts';
import { type NameRequest, RepositoryResolver } from './repository-resolver.ts';

const options = {
  upstreams: [
    { name: 'docker.io', aliases: ['hub'], hostAliases: ['docker.mirror.example', 'hub.mirror.example'] },
    { name: 'ghcr.io', aliases: [], hostAliases: [] },
    { name: 'registry.corp:5443', aliases: [], hostAliases: [] },
  ],
  serverNames: ['registry.example:5000', 'registry.example'],
  hostedPrefixes: new Set(['team-a', 'tools']),
};
const resolver = new RepositoryResolver(options);

function meant(request: Partial<NameRequest> & { name: string }, by = resolver): string {
  try {
    const repository = by.resolve({
      ns: undefined,
      host: undefined,
      listenerUpstream: undefined,
      ...request,
    });
    return repository.upstream === '' ? `hosted ${repository.name}` : repositoryText(repository);
  } catch (error) {
    if (error instanceof OciError) return error.code;
    throw error;
  }
}

describe('the repository that a request means', () => {
  it.each([
    ['docker.io', 'library/nginx', 'docker.io/library/nginx'],
    ['docker.io', 'nginx', 'docker.io/library/nginx'],
    ['DOCKER.IO', 'nginx', 'docker.io/library/nginx'],
    ['docker.io.', 'nginx', 'docker.io/library/nginx'],
    ['docker.io:443', 'nginx', 'docker.io/library/nginx'],
    ['docker.io.:443', 'nginx', 'docker.io/library/nginx'],
    ['index.docker.io', 'nginx', 'docker.io/library/nginx'],
    ['registry-1.docker.io', 'nginx', 'docker.io/library/nginx'],
    ['hub', 'nginx', 'docker.io/library/nginx'],
    ['docker.io', 'docker.io/library/nginx', 'docker.io/library/nginx'],
    ['docker.io', 'registry-1.docker.io/nginx', 'docker.io/library/nginx'],
    ['docker.io', 'ghcr.io/org/app', 'docker.io/ghcr.io/org/app'],
    ['docker.io', 'team-a/app', 'docker.io/team-a/app'],
    ['ghcr.io', 'app', 'ghcr.io/app'],
    ['registry.corp:5443', 'app', 'registry.corp:5443/app'],
    ['registry.corp:5443', 'registry.corp:5443/app', 'registry.corp:5443/app'],
    ['registry.corp', 'app', 'NAME_UNKNOWN'],
    ['docker.io:5000', 'nginx', 'NAME_UNKNOWN'],
    ['169.254.169.254', 'latest/meta-data', 'NAME_UNKNOWN'],
    ['', 'nginx', 'NAME_UNKNOWN'],
    ['evil.example', 'docker.io/library/nginx', 'NAME_UNKNOWN'],
    ['registry.example:5000', 'team-a/app', 'hosted team-a/app'],
    ['registry.example', 'other/app', 'hosted other/app'],
    ['registry.example:443', 'team-a/app', 'hosted team-a/app'],
    ['registry.example:5000', 'docker.io/library/nginx', 'docker.io/library/nginx'],
  ])('by ns=%s and %s is %s', (ns, name, expected) => {
    expect(meant({ ns, name })).toBe(expected);
  });

  it.each([
    ['docker.mirror.example', 'library/nginx', 'docker.io/library/nginx'],
    ['docker.mirror.example:5000', 'nginx', 'docker.io/library/nginx'],
    ['Docker.Mirror.Example.', 'nginx', 'docker.io/library/nginx'],
    ['docker.mirror.example', 'grafana/grafana', 'docker.io/grafana/grafana'],
    ['docker.mirror.example', 'team-a/app', 'docker.io/team-a/app'],
    ['docker.mirror.example', 'docker.io/library/nginx', 'docker.io/library/nginx'],
    ['hub.mirror.example', 'nginx', 'docker.io/library/nginx'],
    ['other.example', 'library/nginx', 'hosted library/nginx'],
  ])('by the host %s and %s is %s', (host, name, expected) => {
    expect(meant({ host, name })).toBe(expected);
  });

  it('by the listener is that of its upstream, whatever the host says', () => {
    expect(meant({ listenerUpstream: 'ghcr.io', host: 'docker.mirror.example', name: 'org/app' })).toBe(
      'ghcr.io/org/app',
    );
  });

  it('by ns takes precedence over the listener', () => {
    expect(meant({ listenerUpstream: 'ghcr.io', ns: 'docker.io', name: 'nginx' })).toBe(
      'docker.io/library/nginx',
    );
  });

  it.each([
    ['docker.io/library/nginx', 'docker.io/library/nginx'],
    ['docker.io/nginx', 'docker.io/library/nginx'],
    ['hub/nginx', 'docker.io/library/nginx'],
    ['index.docker.io/nginx', 'docker.io/library/nginx'],
    ['ghcr.io/org/app', 'ghcr.io/org/app'],
    ['registry.corp:5443/app', 'registry.corp:5443/app'],
    ['team-a/app', 'hosted team-a/app'],
    ['tools/x/y', 'hosted tools/x/y'],
    ['docker.io', 'hosted docker.io'],
    ['library/nginx', 'hosted library/nginx'],
    ['nginx', 'hosted nginx'],
    ['quay.io/org/app', 'hosted quay.io/org/app'],
  ])('by the path %s is %s', (name, expected) => {
    expect(meant({ name })).toBe(expected);
  });

  it('is a hosted one if no rule applies, so that the response equals that for a hidden one', () => {
    expect(meant({ name: 'nobody/app' })).toBe('hosted nobody/app');
    expect(meant({ name: 'unknown.corp:5000/app' })).toBe('NAME_UNKNOWN');
  });

  it('is in the default upstream only if no other rule applies', () => {
    const byDefault = new RepositoryResolver({ ...options, defaultUpstream: 'docker.io' });
    expect(meant({ name: 'nginx' }, byDefault)).toBe('docker.io/library/nginx');
    expect(meant({ name: 'grafana/grafana' }, byDefault)).toBe('docker.io/grafana/grafana');
    expect(meant({ name: 'ghcr.io/org/app' }, byDefault)).toBe('ghcr.io/org/app');
    expect(meant({ name: 'team-a/app' }, byDefault)).toBe('hosted team-a/app');
    expect(meant({ name: 'unknown.corp:5000/app' }, byDefault)).toBe('NAME_INVALID');
  });

  it('follows the hosted prefixes as they change', () => {
    const prefixes = new Set<string>();
    const changing = new RepositoryResolver({
      ...options,
      hostedPrefixes: prefixes,
      defaultUpstream: 'ghcr.io',
    });
    expect(meant({ name: 'team-b/app' }, changing)).toBe('ghcr.io/team-b/app');
    prefixes.add('team-b');
    expect(meant({ name: 'team-b/app' }, changing)).toBe('hosted team-b/app');
  });

  it('has a name of at most 255 characters, without its upstream', () => {
    expect(meant({ name: `docker.io/${'a'.repeat(255)}` })).toBe('NAME_INVALID');
    expect(meant({ name: `ghcr.io/${'a'.repeat(255)}` })).toBe(`ghcr.io/${'a'.repeat(255)}`);
  });
});

describe('the repository that a reference means', () => {
  it.each([
    ['nginx', 'docker.io/library/nginx', undefined],
    ['nginx:1.27', 'docker.io/library/nginx', '1.27'],
    ['docker.io/library/nginx:1', 'docker.io/library/nginx', '1'],
    ['hub/grafana/grafana:9', 'docker.io/grafana/grafana', '9'],
    ['ghcr.io/org/app:v1', 'ghcr.io/org/app', 'v1'],
    ['team-a/app:v1', 'team-a/app', 'v1'],
    ['docker.io/team-a/app', 'docker.io/team-a/app', undefined],
    ['docker.io/hub/app', 'docker.io/hub/app', undefined],
    ['registry.example:5000/team-a/app', 'team-a/app', undefined],
    ['registry.example:5000/ghcr.io/org/app', 'ghcr.io/org/app', undefined],
  ])('%s is %s', (reference, text, tag) => {
    const { repository, tag: found } = resolver.repositoryOf(reference);
    expect(repositoryText(repository)).toBe(text);
    expect(found).toBe(tag);
  });

  it('of a registry that is not configured is unknown', () => {
    expect(() => resolver.repositoryOf('quay.io/org/app')).toThrow(/quay\.io.*not a configured upstream/);
  });

  it.each([
    'docker.io/library/nginx',
    'hub/grafana/grafana',
    'team-a/app',
    'registry.example:5000/ghcr.io/org/app',
  ])('may be where %s is put, to be found again', reference => {
    expect(resolver.destinationOf(reference)).toEqual(resolver.repositoryOf(reference));
  });

  it.each(['nginx', 'team-z/app:v1', 'registry.example:5000/team-z/app', 'quay.io/org/app'])(
    'is no destination for %s, which nobody would find',
    reference => {
      expect(() => resolver.destinationOf(reference)).toThrow(
        expect.objectContaining({ code: 'NAME_UNKNOWN' }),
      );
    },
  );

  it('with an unsupported digest does not fall back to the tag beside it', () => {
    const reference = `nginx:1.27@sha384:${'a'.repeat(96)}`;
    expect(() => resolver.repositoryOf(reference)).toThrow(
      expect.objectContaining({ code: 'DIGEST_INVALID' }),
    );
  });
});
