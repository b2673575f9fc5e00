// What `startThread` and `startChildProcess` start in dist/, with the name of the module.
import { Chunks } from './lib/chunks.ts';

new Chunks(import.meta.dirname).load(`${process.argv[2]}.cjs`);
