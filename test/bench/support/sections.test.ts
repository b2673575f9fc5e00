import { afterEach, beforeEach, describe, expect, it, type MockInstance, vi } from 'vitest';
import { NotMeasured, Sections } from './sections.ts';

const missing = async (): Promise<string> => {
  throw new NotMeasured('needs a snapshotter');
};
const broken = async (): Promise<string> => {
  throw new Error('wrong bytes');
};

let printed: MockInstance<typeof console.log>;
let complained: MockInstance<typeof console.error>;
const exitCode = process.exitCode;

beforeEach(() => {
  printed = vi.spyOn(console, 'log').mockImplementation(() => {});
  complained = vi.spyOn(console, 'error').mockImplementation(() => {});
  process.exitCode = undefined;
});

afterEach(() => {
  process.exitCode = exitCode;
});

describe('a section of the benchmark for which a program is missing', () => {
  it.each([
    ['fails the run', ['lazy'], 1],
    ['is left out of a run of everything', [], undefined],
  ] as const)('says what it needs, measures the rest, and %s if named are %s', async (_, named, code) => {
    await new Sections(named).measure('lazy', missing, async () => 'a table');
    expect(complained).toHaveBeenCalledExactlyOnceWith('lazy was not measured: needs a snapshotter');
    expect(printed).toHaveBeenCalledWith('a table');
    expect(process.exitCode).toBe(code);
  });

  it('is not run if others are named', async () => {
    await new Sections(['warm']).measure('lazy', missing);
    expect([complained.mock.calls, process.exitCode]).toEqual([[], undefined]);
  });
});

it('a section of the benchmark that breaks fails the run', async () => {
  await new Sections([]).measure('lazy', broken);
  expect(complained).toHaveBeenCalledExactlyOnceWith('lazy failed:', new Error('wrong bytes'));
  expect(process.exitCode).toBe(1);
});

it('a name of no section of the benchmark fails the run, which then lists the sections', async () => {
  const sections = new Sections(['lazi']);
  await sections.measure('lazy', broken);
  await sections.measure('warm', broken);
  sections.close();
  expect(complained).toHaveBeenCalledExactlyOnceWith('no such section: lazi (there are lazy, warm)');
  expect(process.exitCode).toBe(1);
});
