import type { Spool } from '../../blobs/spool.ts';
import type { News } from '../../lib/news.ts';

/** As often as it matters: eviction looks at the sum, and downloads stop at `storage.maxBytes`. */
const TELL_EVERY_MS = 1_000;

/**
 * Lets each process of a server count the unfinished downloads and uploads of all: each tells the others by how many
 * bytes its own have grown or shrunk. What a killed process had not told yet is counted by the next collection.
 */
export function shareUnfinished(
  spool: Pick<Spool, 'unfinishedBytes' | 'countUnfinished'> & {
    readonly space: Pick<Spool['space'], 'onRoomMade'>;
  },
  news: News<number>,
): { close(): void } {
  let knownBytes = spool.unfinishedBytes;
  const unlisten = news.listen(bytes => {
    const before = spool.unfinishedBytes;
    spool.countUnfinished(before + bytes);
    knownBytes += spool.unfinishedBytes - before;
  });
  const tell = (): void => {
    const { unfinishedBytes } = spool;
    if (unfinishedBytes !== knownBytes) news.tell(unfinishedBytes - knownBytes);
    knownBytes = unfinishedBytes;
  };
  // The write that needed room measures again at once, perhaps in another process.
  const stop = spool.space.onRoomMade(tell);
  const timer = setInterval(tell, TELL_EVERY_MS).unref();
  return {
    close: () => {
      clearInterval(timer);
      stop();
      tell();
      unlisten();
    },
  };
}
