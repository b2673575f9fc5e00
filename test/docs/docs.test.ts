import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { runProgram } from '../../src/cli/program.ts';
import { fileJsonSchema } from '../../src/config/schema.ts';
import { METRICS } from '../../src/ops/metrics.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const docs = readdirSync(join(root, 'docs'))
  .filter(name => name.endsWith('.md'))
  .map(name => join(root, 'docs', name));
/** By path from the root. */
const pages = new Map(
  [join(root, 'README.md'), ...docs].map(path => [relative(root, path), readFileSync(path, 'utf8')]),
);
const all = [...pages.values()].join('\n');

/** Without code, in which nothing is a link or a heading. */
function proseOf(page: string): string {
  return page.replace(/^```[^]*?^```$/gm, '').replace(/`[^`\n]*`/g, code => code.replaceAll(/[[\]()]/g, ''));
}

function linksOf(page: string): string[] {
  return [...proseOf(page).matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, target = '']) => target);
}

/** As GitHub makes them. */
function anchorsOf(page: string): string[] {
  const headings = page.replace(/^```[^]*?^```$/gm, '').matchAll(/^#+ (.*)$/gm);
  return [...headings].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  );
}

describe.each([...pages])('%s', (name, page) => {
  it('links to files and headings that exist', () => {
    const broken = linksOf(page)
      .filter(target => !/^[a-z]+:/.test(target))
      .filter(target => {
        const [path = '', anchor] = target.split('#');
        const file = path === '' ? join(root, name) : join(root, dirname(name), path);
        if (!existsSync(file)) return true;
        return anchor !== undefined && !anchorsOf(readFileSync(file, 'utf8')).includes(anchor);
      });
    expect(broken).toEqual([]);
  });

  it('has no example hosts other than entrepot.example and registry.example', () => {
    const hosts = [...page.matchAll(/[a-z0-9.-]+\.example\b/g)].map(([host]) => host);
    expect(hosts.filter(host => !/(?:^|\.)(?:entrepot|registry)\.example$/.test(host))).toEqual([]);
  });
});

describe('README.md', () => {
  const page = pages.get('README.md') ?? '';

  it('is no longer than 8 KiB', () => {
    expect(Buffer.byteLength(page)).toBeLessThanOrEqual(8 * 1024);
  });

  it('says how to start, and how to run each kind of test', () => {
    const said = ['npm ci && npm start', 'npm test', 'npm run test:clients', '.ci/run'];
    expect(said.filter(command => !page.includes(command))).toEqual([]);
  });

  it('links to every page of docs/', () => {
    const linked = new Set(linksOf(page).map(target => target.split('#')[0]));
    const others = [...pages.keys()].filter(name => name !== 'README.md');
    expect(others.filter(name => !linked.has(name))).toEqual([]);
  });
});

describe('the documents', () => {
  it('have many links, all of which were checked', () => {
    expect(linksOf(all).length).toBeGreaterThan(30);
  });

  it('name every command', async () => {
    const named = (await commands()).filter(
      command => !all.includes(`\`${command}\``) && !all.includes(`entrepot ${command}`),
    );
    expect(named).toEqual([]);
  });

  it('contain only commands and options that exist', async () => {
    const known = new Set(await commands());
    const lines = typedCommands(all);
    expect(lines.length).toBeGreaterThan(60);
    const wrong: string[] = [];
    for (const line of lines) {
      const [first = '', second = ''] = line.split(' ');
      const name = known.has(`${first} ${second}`) ? `${first} ${second}` : first;
      const help = known.has(name) ? await helpOf(...name.split(' ')) : '';
      const options = line.match(/(?<=[ [])--?[a-z][a-z-]*/g) ?? [];
      if (help === '' || options.some(option => !help.includes(option))) wrong.push(line);
    }
    expect(wrong).toEqual([]);
  });

  it('name every key of the configuration', () => {
    const keys = Object.keys(fileJsonSchema().properties ?? {});
    expect(keys.length).toBeGreaterThan(15);
    expect(keys.filter(key => !new RegExp(`\`(?:[^\`\n]*[^\\w])?${key}\\b`).test(all))).toEqual([]);
  });

  it('name only metrics that exist', () => {
    const named = [...all.matchAll(/`entrepot_([a-z_]+)/g)].map(([, name = '']) => name);
    expect(named.length).toBeGreaterThan(10);
    expect(named.filter(name => !(name in METRICS))).toEqual([]);
  });

  it('name every folder of the sources', () => {
    const folders = readdirSync(join(root, 'src'), { withFileTypes: true }).filter(entry =>
      entry.isDirectory(),
    );
    expect(folders.length).toBeGreaterThan(10);
    const page = pages.get('docs/architecture.md') ?? '';
    expect(folders.map(({ name }) => name).filter(name => !page.includes(`| \`${name}/\` |`))).toEqual([]);
  });
});

/** As the help lists them, those of two words too. */
async function commands(): Promise<string[]> {
  const top = await commandsIn();
  const groups = ['config', 'tenant'];
  const below = await Promise.all(
    groups.map(async group =>
      (await commandsIn(group)).filter(name => name !== 'help').map(name => `${group} ${name}`),
    ),
  );
  return [...top.filter(name => !groups.includes(name)), ...below.flat()];
}

async function commandsIn(...group: string[]): Promise<string[]> {
  const [, list = ''] = (await helpOf(...group)).split('Commands:\n');
  const found = [...list.matchAll(/^ {2}([a-z][a-z-]*) /gm)].map(([, name = '']) => name);
  expect(found.length).toBeGreaterThan(2);
  return found;
}

async function helpOf(...command: string[]): Promise<string> {
  let text = '';
  const write = (piece: string) => void (text += piece);
  await runProgram([...command, '--help'], { out: write, err: write });
  return text;
}

/** What is typed after `entrepot`, in blocks of shell commands and in code within a line. */
function typedCommands(page: string): string[] {
  const blocks = [...page.matchAll(/^```sh\n([^]*?)^```$/gm)].flatMap(([, block = '']) => block.split('\n'));
  const inBlocks = blocks.flatMap(
    line => /(?:^|[|] |-- |exec entrepot |=.* )entrepot ([a-z][^#|>]*)/.exec(line)?.[1] ?? [],
  );
  const inLines = [...page.matchAll(/`entrepot ([a-z][^`|>]*)/g)].map(([, line = '']) => line);
  return [...inBlocks, ...inLines].map(line => line.trim());
}
