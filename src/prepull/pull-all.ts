/** Images at a time, unless somebody says otherwise: enough to keep a link busy while manifests are asked for. */
export const DEFAULT_PARALLEL_IMAGES = 4;

export interface PullAllOptions<Image> {
  /** Images at a time. */
  readonly parallel: number;
  /** False when the image could not be pulled, which was told. */
  readonly pull: (image: Image) => Promise<boolean>;
  readonly signal: AbortSignal;
}

/** Pulls all, past those that fail, and returns these. Rejects by its signal only. */
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
