import { MemoryIndex } from './memory-metadata-store.fixture.ts';
import { surveySuite } from './survey.suite.ts';

surveySuite(async () => {
  const index = new MemoryIndex();
  const store = index.open();
  return { store, survey: index.survey(), remove: () => store.close() };
});
