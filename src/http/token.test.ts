import { afterEach, expect, it } from 'vitest';
import { MemoryBudget } from '../lib/memory-budget.ts';
import { OciError } from '../oci/errors.ts';
import { connect, KeptLog, MemorySource, startServer, testNaming, until } from './fixture.suite.ts';
import type { Deed } from './front.ts';
import type { RegistryServer } from './server.ts';
import { tokenHandler } from './token.ts';

let server: RegistryServer | undefined;

afterEach(() => server?.close(0));

const nobody = {
  login: async () => {
    throw new OciError('UNAUTHORIZED');
  },
};

it('a client that leaves in the middle of its form is no fault of ours', async () => {
  const log = new KeptLog();
  const deeds: Deed[] = [];
  const token = tokenHandler(nobody, testNaming, new MemoryBudget());
  const started = await startServer(new MemorySource(), { log, token, recordDeed: deed => deeds.push(deed) });
  server = started;
  const { socket, closed, received } = connect(started.port);
  socket.write(
    'POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n',
  );
  await until(() => received().includes('100 Continue'));
  socket.write('grant_type=');
  socket.destroy();
  await closed;
  await until(() => deeds.length === 1);
  expect(deeds).toMatchObject([{ action: 'login', outcome: 'refused' }]);
  expect(log.lines.filter(({ level }) => level === 'error')).toEqual([]);
});
