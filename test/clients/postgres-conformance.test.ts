import { afterAll, beforeAll, describe } from 'vitest';
import { Registry } from '../conformance/registry.ts';
import { requirementsOf } from '../conformance/workflows.ts';
import { Ceph, CEPH_PROGRAMS } from '../support/ceph.ts';
import { Entrepot } from '../support/entrepot.ts';
import { HAS_PGBOUNCER, inConfig, PgBouncer, Postgres } from '../support/postgres.ts';
import { hasPrograms } from '../support/programs.ts';

const PREFIX = 'conformance';

describe.skipIf(!HAS_PGBOUNCER)(
  'OCI distribution-spec 1.1, with the index in PostgreSQL behind pgbouncer',
  () => {
    let postgres: Postgres;
    let bouncer: PgBouncer;

    beforeAll(async () => {
      postgres = await Postgres.start();
      bouncer = await PgBouncer.start(postgres);
    });

    afterAll(async () => {
      await bouncer.remove();
      await postgres.remove();
    });

    const start = (storage: Readonly<Record<string, unknown>>) =>
      Entrepot.start({
        hosted: { prefixes: [PREFIX], anonymous: 'push' },
        index: { postgres: inConfig({ ...postgres.settings(), port: bouncer.port }) },
        storage,
      });

    describe('and blobs in the folder', () => {
      let entrepot: Entrepot;
      beforeAll(async () => void (entrepot = await start({})));
      afterAll(() => entrepot.remove());
      requirementsOf(() => new Registry(entrepot.url, PREFIX));
    });

    describe.skipIf(!hasPrograms(...CEPH_PROGRAMS))('and blobs in a bucket', () => {
      let ceph: Ceph;
      let entrepot: Entrepot;
      beforeAll(async () => {
        ceph = await Ceph.start();
        entrepot = await start({ s3: ceph.config('conformance/') });
      });
      afterAll(async () => {
        await entrepot.remove();
        await ceph.stop();
      });
      requirementsOf(() => new Registry(entrepot.url, PREFIX));
    });
  },
);
