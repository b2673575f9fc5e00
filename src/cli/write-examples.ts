import { devNull } from 'node:os';
import { runProgram } from './program.ts';

/** `npm run examples`: writes config/examples/ with `entrepot hosts`. */
const io = {
  out: (text: string) => void process.stdout.write(text),
  err: (text: string) => void process.stderr.write(text),
};
const upstreams = ['--upstream', 'docker.io', 'registry.k8s.io'];

for (const kind of ['containerd', 'crio', 'docker', 'k3s']) {
  // Docker's mirrors need a port that belongs to docker.io.
  const server = `http://entrepot.example:${kind === 'docker' ? 5002 : 5000}`;
  const args = [...upstreams, '--server', server, '--out', `config/examples/${kind}`, '--config', devNull];
  const exitCode = await runProgram(['hosts', kind, ...args], io);
  if (exitCode !== 0) process.exit(exitCode);
}
