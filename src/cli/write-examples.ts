import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runProgram } from './program.ts';

/** `npm run examples`: writes config/examples/ with `entrepot hosts`. */
const io = {
  out: (text: string) => void process.stdout.write(text),
  err: (text: string) => void process.stderr.write(text),
};
const upstreams = ['--upstream', 'docker.io', 'registry.k8s.io'];

/** The mirrors of Docker, and each one of stargz-snapshotter, need a port that belongs to the registry. */
const LISTEN =
  'server: {listen: ["0.0.0.0:5000", {address: "0.0.0.0:5002", upstream: docker.io}, ' +
  '{address: "0.0.0.0:5003", upstream: registry.k8s.io}]}';

const folder = await mkdtemp(join(tmpdir(), 'entrepot-examples-'));
const config = join(folder, 'entrepot.yaml');
await writeFile(config, LISTEN);
try {
  for (const kind of ['containerd', 'crio', 'docker', 'k3s', 'stargz']) {
    const server = `http://entrepot.example:${kind === 'docker' ? 5002 : 5000}`;
    const args = [...upstreams, '--server', server, '--out', `config/examples/${kind}`, '--config', config];
    process.exitCode = await runProgram(['hosts', kind, ...args], io);
    if (process.exitCode !== 0) break;
  }
} finally {
  await rm(folder, { recursive: true });
}
