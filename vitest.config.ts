import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

// Tests wait for processes and clocks as much as they compute: one more than there are cores.
const WORKERS = availableParallelism() + 1;

/** Files that take minutes, mostly because they wait: they begin first. */
const LONGEST = [
  'clients/last-byte',
  'clients/image',
  'clients/kubernetes-watches',
  'clients/kubernetes-hostile',
  'clients/node-files',
  'clients/containerd',
  'crash/suspended-replicas',
  'crash/fleet',
  'crash/paused',
  'crash/kill',
  'crash/histories',
  'crash/node-files',
  'e2e/readers',
  'e2e/prepull',
  'e2e/watch',
  'e2e/fill',
];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const others = await super.sort(files);
    const longest = LONGEST.flatMap(name =>
      others.filter(({ moduleId }) => moduleId.endsWith(`/${name}.test.ts`)),
    );
    return [...longest, ...others.filter(file => !longest.includes(file))];
  }
}

// What is built runs as it is, also within the process of the tests.
const server = { deps: { external: [/\/dist\//] } };

// unit and e2e run anywhere Node runs; clients needs real programs, crash takes minutes.
export default defineConfig({
  test: {
    globalSetup: ['test/support/test-storage.ts'],
    maxWorkers: WORKERS,
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        test: {
          name: 'unit',
          include: ['src/**/*.test.ts', 'test/{architecture,bench,docs,support,vectors}/**/*.test.ts'],
          // A process for each of two hundred files takes longer than many of them. What a test has spied on, or changed in
          // the environment, ends with it.
          isolate: false,
          restoreMocks: true,
          unstubEnvs: true,
          // No criterion, only an end for what hangs: a busy machine takes ten times as long.
          testTimeout: 120_000,
          hookTimeout: 120_000,
          // Of 1 s when left out, which a process may need to start.
          expect: { poll: { timeout: 20_000 } },
        },
      },
      {
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts', 'test/conformance/**/*.test.ts'],
          server,
          // No criterion, only an end for what hangs: on a busy machine a server alone may take half a minute to start.
          testTimeout: 600_000,
          hookTimeout: 600_000,
          expect: { poll: { timeout: 60_000 } },
        },
      },
      {
        test: {
          name: 'crash',
          include: ['test/crash/**/*.test.ts'],
          server,
          testTimeout: 1_200_000,
          hookTimeout: 120_000,
          expect: { poll: { timeout: 60_000 } },
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: 'clients',
          // An `exclude` of a project would replace that of the command line.
          include: [`test/clients/${process.env['TEST_BEFORE'] ? '*' : '!(rolling-upgrade)'}.test.ts`],
          server,
          testTimeout: 600_000,
          hookTimeout: 600_000,
          expect: { poll: { timeout: 60_000 } },
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
