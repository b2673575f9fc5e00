import { readFileSync, writeFileSync } from 'node:fs';
import { withOptions } from './options.ts';

/** Part of `npm run schema`: the tables of docs/configuration.md. */
const page = new URL('../../docs/configuration.md', import.meta.url);
writeFileSync(page, withOptions(readFileSync(page, 'utf8')));
