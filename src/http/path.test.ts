import { describe, expect, it } from 'vitest';
import { OciError } from '../oci/errors.ts';
import { hasOperation, OPERATIONS } from './operations.ts';
import { parsePath } from './path.ts';

const DIGEST = `sha256:${'a'.repeat(64)}`;

function codeOf(path: string, method = 'GET'): string {
  try {
    parsePath(path, method);
  } catch (error) {
    if (error instanceof OciError) return error.code;
    throw error;
  }
  return 'parsed';
}

describe('a path', () => {
  it.each([
    ['/v2/', { kind: 'base' }],
    ['/v2', { kind: 'base' }],
    ['/token', { kind: 'token' }],
    ['/v2/_catalog', { kind: 'catalog' }],
    ['/v2/a/b/manifests/1.2', { kind: 'manifest', name: 'a/b', reference: '1.2' }],
    ['/v2/nginx/manifests/latest', { kind: 'manifest', name: 'nginx', reference: 'latest' }],
    [`/v2/a/manifests/${DIGEST}`, { kind: 'manifest', name: 'a', reference: DIGEST }],
    [`/v2/a/blobs/${DIGEST}`, { kind: 'blob', name: 'a', digest: DIGEST }],
    [`/v2/a/blobs/${DIGEST.replace(':', '%3A')}`, { kind: 'blob', name: 'a', digest: DIGEST }],
    ['/v2/a/tags/list', { kind: 'tags', name: 'a' }],
    [`/v2/a/referrers/${DIGEST}`, { kind: 'referrers', name: 'a', digest: DIGEST }],
    ['/v2/a/blobs/uploads/', { kind: 'uploads', name: 'a' }],
    ['/v2/a/blobs/uploads', { kind: 'uploads', name: 'a' }],
    ['/v2/a/blobs/uploads/0c-1_B', { kind: 'upload', name: 'a', id: '0c-1_B' }],
    ['/v2/a/manifests/manifests/b', { kind: 'manifest', name: 'a/manifests', reference: 'b' }],
    [`/v2/tags/list/blobs/${DIGEST}`, { kind: 'blob', name: 'tags/list', digest: DIGEST }],
    ['/v2/localhost:5000/app/manifests/x', { kind: 'manifest', name: 'localhost:5000/app', reference: 'x' }],
  ])('%s is read', (path, route) => {
    expect(parsePath(path, 'GET')).toEqual(route);
  });

  it.each([
    ['/v2/../a/manifests/x', 'NAME_INVALID'],
    ['/v2/a/../b/manifests/x', 'NAME_INVALID'],
    ['/v2/a//b/manifests/x', 'NAME_INVALID'],
    ['/v2//manifests/x', 'NAME_INVALID'],
    ['/v2/manifests/x', 'NAME_INVALID'],
    ['/v2/A/manifests/x', 'NAME_INVALID'],
    ['/v2/library%2Fnginx/manifests/x', 'NAME_INVALID'],
    ['/v2/%6eginx/manifests/x', 'NAME_INVALID'],
    ['/v2/a%00/manifests/x', 'NAME_INVALID'],
    ['/v2/..%2f..%2f/manifests/x', 'NAME_INVALID'],
    ['/v2/a/localhost:5000/b/manifests/x', 'NAME_INVALID'],
    ['/v2/localhost:5000/manifests/x', 'NAME_INVALID'],
    [`/v2/${'a'.repeat(256)}/manifests/x`, 'NAME_INVALID'],
    ['/v2/a/manifests/..%2F..', 'MANIFEST_UNKNOWN'],
    ['/v2/a/manifests/%00', 'MANIFEST_UNKNOWN'],
    ['/v2/a/manifests/.INVALID', 'MANIFEST_UNKNOWN'],
    ['/v2/a/manifests/', 'MANIFEST_UNKNOWN'],
    ['/v2/a/manifests/%', 'QUERY_INVALID'],
    ['/v2/a/manifests/sha256:../../x', 'NAME_UNKNOWN'],
    ['/v2/a/blobs/sha256:..%2F..%2Fx', 'DIGEST_INVALID'],
    ['/v2/a/blobs/sha256:abc', 'DIGEST_INVALID'],
    [`/v2/a/blobs/md5:${'a'.repeat(32)}`, 'DIGEST_INVALID'],
    [`/v2/a/blobs/${DIGEST.toUpperCase()}`, 'DIGEST_INVALID'],
    [`/v2/a/blobs/${DIGEST}%253A`, 'DIGEST_INVALID'],
    ['/v2/a/blobs/uploads/..', 'BLOB_UPLOAD_UNKNOWN'],
    ['/v2/a/blobs/uploads/%2e%2e', 'BLOB_UPLOAD_UNKNOWN'],
    ['/v2/a/things/x', 'NAME_UNKNOWN'],
    ['/v2/../../etc/passwd', 'NAME_UNKNOWN'],
    ['/v1/a', 'NAME_UNKNOWN'],
    ['http://host/v2/', 'NAME_UNKNOWN'],
    ['', 'NAME_UNKNOWN'],
  ])('%s is refused as %s', (path, code) => {
    expect(codeOf(path)).toBe(code);
  });

  it('with a tag that cannot exist is unknown to a reader and invalid from a writer', () => {
    expect(codeOf('/v2/a/manifests/.x', 'GET')).toBe('MANIFEST_UNKNOWN');
    expect(codeOf('/v2/a/manifests/.x', 'PUT')).toBe('TAG_INVALID');
  });

  it('may name an upstream and the longest repository name, and nothing longer', () => {
    const long = 'a'.repeat(255);
    expect(codeOf(`/v2/docker.io/${long}/tags/list`)).toBe('parsed');
    expect(codeOf(`/v2/registry.example:5000/${long}/tags/list`)).toBe('parsed');
    expect(codeOf(`/v2/docker.io/${long}a/tags/list`)).toBe('NAME_INVALID');
  });
});

describe('the table of operations', () => {
  it('has no method by inheritance', () => {
    expect(hasOperation('base', 'constructor')).toBe(false);
    expect(hasOperation('base', 'toString')).toBe(false);
  });

  it('allows HEAD wherever GET is', () => {
    expect(hasOperation('manifest', 'HEAD')).toBe(true);
    expect(hasOperation('uploads', 'HEAD')).toBe(false);
    expect(Object.keys(OPERATIONS)).toHaveLength(9);
  });
});
