import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { nodeFiles } from './node-files.ts';
import { NodeWatch } from './node-watch.ts';
import type { WantedNodeFiles } from './wanted-node-files.ts';

/** How often everything is looked at. */
const RESCAN_MS = 10_000;
const hub = { name: 'docker.io', aliases: [], url: 'https://registry-1.docker.io' };

function wantedAt(serverUrl: string): WantedNodeFiles {
  const files = nodeFiles('containerd', { serverUrl, upstreams: [hub], kept: true });
  return { files, notes: [], isPartial: false };
}

let folder: string;
let hosts: string;
let clock: ManualClock;
let told: string[];
let wanted: () => Promise<WantedNodeFiles | undefined>;
let watch: NodeWatch;

beforeEach(async () => {
  folder = await makeTempFolder('watch');
  hosts = join(folder, 'docker.io', 'hosts.toml');
  clock = new ManualClock();
  told = [];
  wanted = async () => wantedAt('http://10.0.0.5:5000');
  watch = new NodeWatch({
    folder,
    inputs: [],
    wanted: () => wanted(),
    tell: {
      written: path => void told.push(`wrote ${path}`),
      removed: path => void told.push(`removed ${path}`),
      note: text => void told.push(text),
    },
    clock,
  });
});

afterEach(async () => {
  await watch.close();
  await removeFolder(folder);
});

/** Looks until `text` was told. */
async function soonTold(text: string): Promise<void> {
  await vi.waitFor(
    async () => {
      await clock.advance(RESCAN_MS);
      expect(told).toContain(text);
    },
    { timeout: 20_000, interval: 20 },
  );
}

describe('a watch of the files of a node', () => {
  it('writes them, writes them again when they change, and leaves them when it ends', async () => {
    await watch.start();
    expect(await readFile(hosts, 'utf8')).toContain('http://10.0.0.5:5000');
    told = [];
    wanted = async () => wantedAt('http://10.0.0.6:5000');
    await soonTold(`wrote ${hosts}`);
    expect(await readFile(hosts, 'utf8')).toContain('http://10.0.0.6:5000');
    await watch.close();
    expect(await readdir(folder)).toEqual(['docker.io']);
  });

  it('writes them again when somebody has removed them', async () => {
    await watch.start();
    told = [];
    await rm(hosts);
    await soonTold(`wrote ${hosts}`);
    expect(await readFile(hosts, 'utf8')).toContain('http://10.0.0.5:5000');
  });

  it('leaves them as they are while it does not know what is wanted, and says so once', async () => {
    await watch.start();
    told = [];
    wanted = async () => {
      throw new Error('no configuration');
    };
    await soonTold('no configuration');
    await clock.advance(3 * RESCAN_MS);
    wanted = async () => undefined;
    await soonTold('the name of the server cannot be resolved now: the files stay as they are');
    wanted = async () => wantedAt('http://10.0.0.6:5000');
    await soonTold(`wrote ${hosts}`);
    expect(told.length).toBe(3);
  });

  it('waits for the name of the server, but not for a mistake on the command line to end', async () => {
    wanted = async () => undefined;
    await watch.start();
    expect(await readdir(folder)).toEqual([]);
    wanted = async () => {
      throw new Error('a mistake');
    };
    const other = new NodeWatch({
      folder,
      inputs: [],
      wanted,
      tell: { written() {}, removed() {}, note() {} },
    });
    await expect(other.start()).rejects.toThrow('a mistake');
  });

  it('removes its files when it is told to', async () => {
    await watch.start();
    await watch.close();
    await watch.removeFiles();
    expect(told).toEqual([`wrote ${hosts}`, `removed ${hosts}`]);
    expect(await readdir(folder)).toEqual([]);
  });
});
