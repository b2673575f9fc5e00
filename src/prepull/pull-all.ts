/** Images at a time by default: enough to use a network connection fully while manifests are requested. */
export const DEFAULT_PARALLEL_IMAGES = 4;

export interface PullAllOptions<Image> {
  /** Images at a time. */
  readonly parallel: number;
  /** Returns false if the image could not be pulled, after reporting that. */
  readonly pull: (image: Image) => Promise<boolean>;
  readonly signal: AbortSignal;
}

/** Pulls all images, continuing after failures, and returns those that failed. Rejects only when its signal aborts. */
export async function pullAll<Image>(
  images: readonly Image[],
  { parallel, pull, signal }: PullAllOptions<Image>,
): Promise<readonly Image[]> {
  const queue = [...images];
  const failed: Image[] = [];
  const work = async (): Promise<void> => {
    for (let image = queue.shift(); image !== undefined && !signal.aborted; image = queue.shift()) {
      if (!(await pull(image))) failed.push(image);
    }
  };
  await Promise.all(Array.from({ length: parallel }, work));
  signal.throwIfAborted();
  return failed;
}
