import { readFileSync } from 'node:fs';

/** How busy all cores of this machine were since it was made, by whatever (Linux, `proc(5)`). */
export class BusyCores {
  readonly #before = coreTimes();

  /** 0 to 1. */
  share(): number {
    const now = coreTimes();
    const all = now.all - this.#before.all;
    return all === 0 ? 0 : 1 - (now.idle - this.#before.idle) / all;
  }
}

/** In ticks. A core that waits for a disk is idle. */
function coreTimes(): { readonly idle: number; readonly all: number } {
  const [line = ''] = readFileSync('/proc/stat', 'utf8').split('\n', 1);
  // What guests take is part of user and nice.
  const times = line.split(/\s+/).slice(1, 9).map(Number);
  const [, , , idle = 0, waiting = 0] = times;
  return { idle: idle + waiting, all: times.reduce((sum, each) => sum + each, 0) };
}
