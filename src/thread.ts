// What `startThread` starts in dist/, with the name of the thread's module.
import { Chunks } from './lib/chunks.ts';

new Chunks(import.meta.dirname).load(`${process.argv[2]}.cjs`);
