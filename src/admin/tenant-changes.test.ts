import { expect, it } from 'vitest';
import { rotateLogin } from './tenant-changes.ts';

const issued: object[] = [];
const parts = {
  config: { server: { serverNames: ['registry.example'], externalUrl: undefined } },
  issuer: {
    rotate: async (request: object) => {
      issued.push(request);
      return { id: 'a1', username: 'team-a', password: 'its-password' };
    },
  },
  tenants: { find: () => ({}) },
};

function rotate(server: string | undefined) {
  return rotateLogin(
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- nothing else is asked of them
    parts as unknown as Parameters<typeof rotateLogin>[0],
    { tenant: 'team-a', server, readOnly: false, overlap: 60_000, secretName: undefined },
    {},
  );
}

it('a login for a name under which nobody may push is issued with a warning', async () => {
  expect((await rotate(undefined)).warning).toBeNull();
  expect((await rotate('registry.example/tools')).warning).toBeNull();
  expect((await rotate('registry.exmaple')).warning).toMatch(
    /^"registry\.exmaple" is not a name of this registry/,
  );
  expect(issued).toHaveLength(3);
});
