// Folders that live as long as a test.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A new empty folder in the system's place for temporary files; short, since sockets are put there too. */
export async function makeTempFolder(name: string): Promise<string> {
  return mkdtemp(join(tmpdir(), `ent-${name}-`));
}

/** Removes a folder with all that is in it; absent is fine. */
export async function removeFolder(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
}
