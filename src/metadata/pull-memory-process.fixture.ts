// A process with the index in the file that its argument names. It obeys orders and ends when its parent does.
import { silentLog } from '../lib/log.ts';
import { obey, type Order } from './pull-memory.fixture.ts';
import { openSqliteMetadataStore } from './sqlite-metadata-store.ts';

const [, , path = ''] = process.argv;
const index = await openSqliteMetadataStore(path, { log: silentLog });

async function reply(order: Order): Promise<void> {
  process.send?.(await obey(index, path, order));
}

process.on('message', (order: Order) => void reply(order));
process.on('disconnect', () => process.exit());
process.send?.({ done: true });
