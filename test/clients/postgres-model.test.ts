import { afterAll, beforeAll, describe } from 'vitest';
import { comparisonWithModel } from '../../src/metadata/model/comparison.fixture.ts';
import { PostgresSides } from '../../src/metadata/model/postgres-side.fixture.ts';
import { HAS_POSTGRES, Postgres } from '../support/postgres.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

describe.skipIf(!HAS_POSTGRES)('whatever happens to an index in PostgreSQL', () => {
  let postgres: Postgres;
  let folder: string;
  let sides: PostgresSides;

  beforeAll(async () => {
    postgres = await Postgres.start();
    folder = await makeTempFolder('model');
    sides = await PostgresSides.open(postgres.settings(), folder);
  });

  afterAll(async () => {
    await sides.close();
    await postgres.remove();
    await removeFolder(folder);
  });

  // Each takes a second, of a thousand questions.
  comparisonWithModel(() => sides.openSide(), 10);
});
