import { expect, test } from 'vitest';
import * as mediaTypes from './media-types.ts';

test('every type requested from upstream is a manifest or an index, and none is both', () => {
  const asked = mediaTypes.MANIFEST_ACCEPT.split(', ').map(mediaTypes.essence);
  expect(asked).toHaveLength(7);
  for (const type of asked) expect(mediaTypes.isManifestType(type)).toBe(!mediaTypes.isIndexType(type));
});

test('a non-distributable layer is a layer', () => {
  for (const type of [
    'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip',
    'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
  ]) {
    expect([mediaTypes.isLayerType(type), mediaTypes.isNonDistributableType(type)]).toEqual([true, true]);
  }
  expect(mediaTypes.isNonDistributableType(mediaTypes.OCI_LAYER)).toBe(false);
  expect(mediaTypes.isLayerType(mediaTypes.OCI_CONFIG)).toBe(false);
});

test('the parameters of a Content-Type do not count', () => {
  expect(mediaTypes.essence(' Application/JSON ; charset=utf-8')).toBe('application/json');
});
