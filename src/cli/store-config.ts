import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from '../config/config.ts';
import { loadConfig } from '../config/load.ts';
import { mergeTrees } from '../config/tree.ts';
import { absentAsUndefined } from '../lib/error-code.ts';
import { ownUid, presence, userText } from '../lib/file-owner.ts';
import { readFolderState } from '../metadata/folder-identity.ts';
import { requireNoRestore } from '../metadata/restore-lock.ts';
import { INDEX_FILE, STATE_FILE } from '../metadata/store-identity.ts';
import { CommandError, type Input, type Io, textOption } from './command.ts';
import { runningServer, type StoreServer, runningServers } from './running-server.ts';
import { actAsOwner } from './store-owner.ts';

/** Why a command that copies whole stores does nothing. */
export const INDEX_IN_DATABASE =
  'the index of this store is in a database (index.postgres), which this command does not copy: back up the database with ' +
  'its own tools (pg_dump), and then the folder of storage.path, or the bucket';

/** What to do if there is no folder of a store with its index in a database. */
const FOLDER_NEEDED =
  'even if the index is in a database (index.postgres), a command needs the folder of a server or replica of the store: ' +
  'name it as storage.path, or start a server with this configuration first';

/**
 * The configuration of the store that a command works on. From now on this process acts as the owner of the store. If
 * neither a configuration nor a store is named, and there is none in this folder, it is that of the server that runs
 * here; standard error then tells which store it is.
 */
export async function storeConfig(input: Input, io: Io): Promise<Config> {
  const { config, hasStore: isThere } = await configAndStore(input, io);
  if (!isThere) await requireWanted(input, config);
  return config;
}

/** Throws CommandError if there is no store and the command may not create it. */
async function requireWanted(
  { makesStore }: Input,
  { storage: { path }, index, origin }: Config,
): Promise<void> {
  if (makesStore === 'anywhere') return;
  const none = `there is no store in ${path}`;
  if (makesStore === undefined) {
    throw new CommandError(index.postgres === undefined ? none : `${none}: ${FOLDER_NEEDED}`);
  }
  // In a wrong folder, a new store would be mistaken for the intended one.
  if (origin.isDefaultPath && (await presence(path)) === 'absent') {
    throw new CommandError(
      `${none}, and no other store was named: to create one there, create the folder; ` +
        'otherwise set ENTREPOT_STORAGE__PATH=FOLDER, or use a --config FILE that names it',
    );
  }
}

/** As `storeConfig`, for a command that can answer without a store. */
export async function configAndStore(
  input: Input,
  io: Io,
): Promise<{ readonly config: Config; readonly hasStore: boolean }> {
  const typed = await loadConfig({ file: textOption(input, 'config') });
  const server = await serverFor(typed);
  const storePath = server?.storePath ?? typed.storage.path;
  if (typed.origin.isDefaultPath) io.err(`store: ${storePath} (${reasonOf(server)})\n`);
  await actAsOwner(storePath);
  // Before anything else is read: the configuration of another user's server is read as that user, since it may name
  // any file.
  const isThere = await hasStore(storePath);
  const config =
    server !== undefined && typed.origin.isSilent
      ? await configOf(server)
      : { ...typed, storage: { ...typed.storage, path: storePath } };
  return { config, hasStore: isThere };
}

/**
 * For a command that only needs the configuration: if none is named, that of the server that `storeConfig` would find,
 * read again now, which is reported. `keepsUser`: the command writes elsewhere, so root stays root if it would follow
 * that server anyway.
 */
export async function configInForce(
  input: Input,
  io: Io,
  { keepsUser = false }: { readonly keepsUser?: boolean } = {},
): Promise<Config> {
  const typed = await loadConfig({ file: textOption(input, 'config') });
  const server = typed.origin.isSilent ? await serverFor(typed) : undefined;
  if (server === undefined) return typed;
  const { file = 'no file' } = server.document.config;
  io.err(`configuration: ${file} (${reasonOf(server)})\n`);
  // As in `configAndStore`: the server's configuration may name any file.
  if (!keepsUser || !(await mayTrust(server))) await actAsOwner(server.storePath);
  return configOf(server);
}

/**
 * The server that runs on the store or, if no store was named and there is none here, the one that runs on this
 * machine.
 */
async function serverFor({ storage, origin }: Config): Promise<StoreServer | undefined> {
  const { file, isDefaultPath, isSilent } = origin;
  if (!isDefaultPath || (await isHere(storage.path))) {
    return isSilent ? runningServer(storage.path) : undefined;
  }
  const all = isSilent || file !== undefined ? await runningServers() : [];
  const meant = isSilent ? all : all.filter(({ document }) => document.config.file === file);
  const trusted = await Promise.all(meant.map(async server => ((await mayTrust(server)) ? [server] : [])));
  const [only, ...others] = trusted.flat();
  if (only !== undefined && others.length === 0) return only;
  if (meant.length === 0) return undefined;
  const places = await Promise.all(meant.map(placeText));
  throw new CommandError(
    `there is no store in ${storage.path}. Servers run on ${places.join(', ')}: ` +
      'choose one with ENTREPOT_STORAGE__PATH=FOLDER, or with a --config FILE that names it',
  );
}

const OTHERS_WRITE = 0o022;

/**
 * Whether to follow a server that was not named, since another user might run one as a trap: this user's own; for root
 * also one whose configuration belongs to root and names this store.
 */
async function mayTrust({ uid, storePath, document: { config } }: StoreServer): Promise<boolean> {
  if (uid === ownUid()) return true;
  if (ownUid() !== 0 || config.file === undefined) return false;
  const file = await absentAsUndefined(stat(config.file));
  if (file === undefined || file.uid !== 0 || (file.mode & OTHERS_WRITE) !== 0) return false;
  const env = Object.fromEntries(
    Object.entries(config.env ?? {}).filter(([name]) => !name.startsWith('ENTREPOT_')),
  );
  const rooted = await loadConfig({ file: config.file, env }).catch(() => undefined);
  return rooted?.storage.path === storePath;
}

/** Loaded in the same way as by the server. */
function configOf({ storePath, document: { config } }: StoreServer): Promise<Config> {
  const overrides = mergeTrees(config.overrides ?? {}, { storage: { path: storePath } });
  return loadConfig({ ...config, overrides });
}

/** The path comes from another user and may contain anything. */
async function placeText({ storePath, uid }: StoreServer): Promise<string> {
  const path = JSON.stringify(storePath);
  return uid === undefined || uid === ownUid() ? path : `${path} of ${await userText(uid)}`;
}

function reasonOf(server: StoreServer | undefined): string {
  if (server === undefined) return 'the default: no other was named';
  const [address = 'starting'] = server.document.addresses;
  return `of the server on ${address}`;
}

/**
 * Whether this folder has a store. A folder that this user may not read, such as root's home, counts as having none.
 */
async function isHere(path: string): Promise<boolean> {
  return (await presence(path)) !== 'hidden' && hasStore(path);
}

/**
 * Throws for a store whose index is gone from its folder, which only the operator can repair. Without a store, nothing is
 * lost.
 */
export async function requireIndex({ storage: { path }, index: { postgres } }: Config): Promise<void> {
  if (postgres !== undefined) return;
  const index = await absentAsUndefined(stat(join(path, INDEX_FILE)));
  if ((index?.size ?? 0) > 0) return;
  // Opening it says that it has to be configured.
  if ((await readFolderState(path)) !== undefined) return;
  const rest = await Promise.all([STATE_FILE, 'blobs'].map(name => presence(join(path, name))));
  if (rest.every(one => one === 'absent')) return;
  requireNoRestore(path);
  throw new CommandError(
    `the store in ${path} has lost its index: ${INDEX_FILE} is missing, and with it all manifests, tags and rights. ` +
      'Stop the server if it runs, then restore a backup into an empty folder (entrepot restore), or create a new index ' +
      'of the remaining blobs (entrepot rebuild)',
  );
}

/** Whether there is any part of a store, even if this user may not see it. */
async function hasStore(path: string): Promise<boolean> {
  for (const name of [INDEX_FILE, STATE_FILE, 'blobs']) {
    if ((await presence(join(path, name))) !== 'absent') return true;
  }
  return false;
}
