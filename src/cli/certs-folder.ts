import { lstat, mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { removeAbandoned, syncFolder, writeFileAtomic } from '../lib/atomic-file.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import { absentAsUndefined } from '../lib/error-code.ts';
import { makeFolder } from '../lib/make-folder.ts';
import { CA_FILE, HOSTS_FILE, isKept, isOwn, type NodeFile } from './node-files.ts';
import { NODE_FILE_MODE } from './node-folder.ts';

/** What `CertsFolder.keep` did, and could not do. */
export interface CertsChange {
  /** Paths of what was written, in its order. */
  readonly written: readonly string[];
  readonly removed: readonly string[];
  /** Of files and folders that are not as wanted, why. */
  readonly problems: readonly string[];
}

/** Larger ones are not ours: a chain of certificates has a few kilobytes. */
const MAX_FILE_BYTES = 1024 * 1024;

/** containerd reads a CA after the hosts.toml that names it, on a busy node a second later, and pulls nothing if it has gone. */
const CA_STAYS_MS = 2_000;

/** A file is written in milliseconds; its writer may have been another container, of whose processes nothing is known. */
const ABANDONED_AFTER_MS = 60_000;

/** What the folder of a registry is called before it is complete, and while it is removed. No registry has such a name. */
const HALF_DONE = '.entrepot-';

/**
 * containerd's folder of registries, `certs.d`, which has a folder for each and is read by each pull. Makes what Entrepot
 * keeps in it as it is wanted, and leaves everything else alone: files of others, and those that `entrepot hosts` wrote
 * for registries that are not wanted here. At every moment, whenever the process dies, each hosts.toml is complete, and
 * so is the CA that it names; what a dead process has left half done is finished or removed.
 */
export class CertsFolder {
  readonly path: string;
  readonly #clock: Clock;

  /** `clock`: the system's by default. */
  constructor(path: string, clock: Clock = systemClock) {
    this.path = path;
    this.#clock = clock;
  }

  /** The folders of all registries that are there, ours or not. */
  async registries(): Promise<readonly string[]> {
    return (await this.#folders())
      .filter(name => !name.startsWith(HALF_DONE))
      .map(name => join(this.path, name));
  }

  /**
   * Writes these files, each `REGISTRY/hosts.toml` or a CA beside it, and removes what is kept for other registries. One
   * registry's trouble does not keep the others from being written. Must not run twice at a time.
   */
  async keep(files: readonly NodeFile[]): Promise<CertsChange> {
    const wanted = new Map<string, Map<string, string>>();
    for (const { path, text } of files) {
      const [name = '', file = ''] = path.split('/');
      const folder = join(this.path, name);
      wanted.set(folder, (wanted.get(folder) ?? new Map<string, string>()).set(file, text));
    }
    const change = new Change();
    if (wanted.size > 0) await makeFolder(this.path);
    for (const name of await this.#folders()) {
      if (name.startsWith(HALF_DONE)) await change.attempt(() => discard(join(this.path, name)));
    }
    for (const folder of new Set([...wanted.keys(), ...(await this.registries())])) {
      await change.attempt(() => keepRegistry(folder, wanted.get(folder), change));
    }
    if (change.unnamedCas.length > 0) await this.#clock.sleep(CA_STAYS_MS);
    for (const folder of change.unnamedCas) await change.attempt(() => clear(folder, [CA_FILE], change));
    return change;
  }

  async #folders(): Promise<readonly string[]> {
    const entries = (await absentAsUndefined(readdir(this.path, { withFileTypes: true }))) ?? [];
    return entries.filter(entry => entry.isDirectory()).map(({ name }) => name);
  }
}

class Change implements CertsChange {
  readonly written: string[] = [];
  readonly removed: string[] = [];
  readonly problems: string[] = [];
  /** The folders with a CA that no hosts.toml names any more. */
  readonly unnamedCas: string[] = [];

  /** Runs a step whose failure is a problem, and no reason to do nothing else. */
  async attempt(step: () => Promise<void>): Promise<void> {
    try {
      await step();
    } catch (error) {
      this.problems.push(error instanceof Error ? error.message : String(error));
    }
  }
}

/** `files`: the texts of a registry's files by name; `undefined` if it is to have none. */
async function keepRegistry(
  folder: string,
  files: ReadonlyMap<string, string> | undefined,
  change: Change,
): Promise<void> {
  const entry = await absentAsUndefined(lstat(folder));
  if (entry === undefined) {
    if (files !== undefined) await create(folder, files, change);
    return;
  }
  if (!entry.isDirectory()) {
    change.problems.push(`${folder} ${NOT_OURS}`);
    return;
  }
  const hosts = await ownText(join(folder, HOSTS_FILE), isOwn);
  const ca = await ownText(join(folder, CA_FILE), () => true);
  if (hosts === FOREIGN || ca === FOREIGN) {
    const name = hosts === FOREIGN ? HOSTS_FILE : CA_FILE;
    if (files !== undefined) change.problems.push(`${join(folder, name)} ${NOT_OURS}`);
    return;
  }
  for (const name of [HOSTS_FILE, CA_FILE]) await removeAbandoned(join(folder, name), ABANDONED_AFTER_MS);
  if (files !== undefined) {
    await update(folder, files, { hosts, ca }, change);
    return;
  }
  const isOurs = hosts === undefined ? ca !== undefined : isKept(hosts);
  if (!isOurs) return;
  if (ca === undefined) {
    await clear(folder, [HOSTS_FILE], change);
    return;
  }
  if (hosts !== undefined) await remove(join(folder, HOSTS_FILE), change);
  change.unnamedCas.push(folder);
}

/** Makes a registry's folder with all of its files in one step. */
async function create(folder: string, files: ReadonlyMap<string, string>, change: Change): Promise<void> {
  const half = halfDone(folder);
  await mkdir(half);
  for (const [name, text] of files) await write(join(half, name), text);
  await rename(half, folder);
  await syncFolder(dirname(folder));
  change.written.push(...[...files.keys()].map(name => join(folder, name)));
}

/** Writes the CA before the hosts.toml that names it. */
async function update(
  folder: string,
  files: ReadonlyMap<string, string>,
  existing: { readonly hosts: string | undefined; readonly ca: string | undefined },
  change: Change,
): Promise<void> {
  const ca = files.get(CA_FILE);
  for (const [name, text, old] of [
    [CA_FILE, ca, existing.ca],
    [HOSTS_FILE, files.get(HOSTS_FILE), existing.hosts],
  ] as const) {
    if (text === undefined || text === old) continue;
    await write(join(folder, name), text);
    change.written.push(join(folder, name));
  }
  if (ca === undefined && existing.ca !== undefined) change.unnamedCas.push(folder);
}

/** Removes these files, with the folder if nothing else is in it. */
async function clear(folder: string, names: readonly string[], change: Change): Promise<void> {
  const there = await readdir(folder);
  if (there.some(name => !names.includes(name))) {
    for (const name of names) await remove(join(folder, name), change);
    return;
  }
  const half = halfDone(folder);
  await rename(folder, half);
  await discard(half);
  change.removed.push(...names.map(name => join(folder, name)));
}

/** Removes a folder that is half done. */
async function discard(half: string): Promise<void> {
  await rm(half, { recursive: true });
  await syncFolder(dirname(half));
}

function halfDone(folder: string): string {
  return join(dirname(folder), `${HALF_DONE}${basename(folder)}`);
}

async function write(path: string, text: string): Promise<void> {
  await writeFileAtomic(path, [Buffer.from(text)], { mode: NODE_FILE_MODE });
}

async function remove(path: string, change: Change): Promise<void> {
  await rm(path);
  await syncFolder(dirname(path));
  change.removed.push(path);
}

const NOT_OURS = 'was not written by Entrepot, and is left as it is';

const FOREIGN = Symbol('a file of somebody else');

/** The text of a file that `isOurs`; `undefined` if there is none. */
async function ownText(
  path: string,
  isOurs: (text: string) => boolean,
): Promise<string | typeof FOREIGN | undefined> {
  const entry = await absentAsUndefined(lstat(path));
  if (entry === undefined) return undefined;
  // A link may lead out of the folder, and from a container to nowhere.
  if (!entry.isFile() || entry.size > MAX_FILE_BYTES) return FOREIGN;
  const text = await absentAsUndefined(readFile(path, 'utf8'));
  return text === undefined || isOurs(text) ? text : FOREIGN;
}
