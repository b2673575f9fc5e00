import { expect, test } from 'vitest';
import * as pullRecord from './pull-record.ts';

// The kubelet's results are in test/vectors/pullrecords.json; here is what they leave open.

const secret = { uid: 'u', namespace: 'n', name: 's', credentialHash: 'h' };

test('a used secret is recorded with its coordinates and its hash', () => {
  const used = { from: 'secret', secret: { uid: 'u', namespace: 'n', name: 's' }, hash: 'h' } as const;
  expect(pullRecord.credentialsToRecord(used)).toEqual({ kubernetesSecrets: [secret] });
  expect(pullRecord.credentialsToRecord({ from: 'node-config' })).toEqual({ nodePodsAccessible: true });
});

test('a pull under unknown circumstances is recorded and proves nothing', () => {
  const record = pullRecord.recordImagePulled(undefined, 'ref', 'reg/x', undefined);
  expect(record).toEqual({ imageRef: 'ref', credentialMapping: {} });
  expect(pullRecord.recordImagePulled(record, 'ref', 'reg/x', undefined)).toBe(record);
});

test('access for everybody replaces what was recorded, and stays', () => {
  const record = { imageRef: 'ref', credentialMapping: { 'reg/x': { kubernetesSecrets: [secret] } } };
  const open = pullRecord.mergeCredentials(record, 'reg/x', { nodePodsAccessible: true });
  expect(open.credentialMapping).toEqual({ 'reg/x': { nodePodsAccessible: true } });
  expect(pullRecord.mergeCredentials(open, 'reg/x', { kubernetesSecrets: [secret] })).toBe(open);
});

test('a secret with new content replaces the old entry', () => {
  const record = { imageRef: 'ref', credentialMapping: { 'reg/x': { kubernetesSecrets: [secret] } } };
  const rotated = { ...secret, credentialHash: 'other' };
  const after = pullRecord.mergeCredentials(record, 'reg/x', { kubernetesSecrets: [rotated] });
  expect(after.credentialMapping?.['reg/x']).toEqual({ kubernetesSecrets: [rotated] });
});
