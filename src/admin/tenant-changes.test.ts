import { expect, it } from 'vitest';
import { rotateBody } from './documents/actions.ts';
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

function asked(overlap: string) {
  return rotateBody.safeParse({ tenant: 'team-a', overlap });
}

it('no login is asked for that would end at a time that no date can have', () => {
  expect(asked('3650d').success).toBe(true);
  expect(asked('100000000d').error?.issues).toMatchObject([
    { path: ['overlap'], message: 'expected a duration such as 500ms, 90s, 1m, 24h or 7d, of at most 3650d' },
  ]);
});
