import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

// Vitest leaves one core free, of two that is half of them. Tests wait for processes and clocks as much as they compute.
const MIN_WORKERS = 2;

// unit and e2e run anywhere Node runs; clients needs real programs, crash takes minutes.
export default defineConfig({
  test: {
    maxWorkers: Math.max(MIN_WORKERS, availableParallelism() - 1),
    projects: [
      {
        test: {
          name: 'unit',
          include: ['src/**/*.test.ts', 'test/{architecture,docs,support,vectors}/**/*.test.ts'],
          // The default of 5 s is short for the first test of a file on a busy machine: it loads the modules.
          testTimeout: 30_000,
          // Of 1 s when left out, which a process may need to start.
          expect: { poll: { timeout: 20_000 } },
        },
      },
      {
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts', 'test/conformance/**/*.test.ts'],
          // What is built runs as it is, also within the process of the tests.
          server: { deps: { external: [/\/dist\//] } },
          // No criterion, only an end for what hangs: on a busy machine a server alone may take half a minute to start.
          testTimeout: 180_000,
          hookTimeout: 180_000,
          expect: { poll: { timeout: 60_000 } },
        },
      },
      {
        test: {
          name: 'crash',
          include: ['test/crash/**/*.test.ts'],
          testTimeout: 1_200_000,
          hookTimeout: 120_000,
          expect: { poll: { timeout: 60_000 } },
          // Even on two cores: half of the time they wait, for a process to count as dead or to start again.
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: 'clients',
          include: ['test/clients/**/*.test.ts'],
          testTimeout: 600_000,
          hookTimeout: 600_000,
          expect: { poll: { timeout: 60_000 } },
          fileParallelism: false,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
