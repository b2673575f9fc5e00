// Certificates of a test's own, where the one in tls/ is not enough: ones that are replaced by others.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './programs.ts';

export interface Certificate {
  /** PEM. Self-signed, so that it is also the CA to trust. */
  readonly cert: string;
  readonly key: string;
}

/** Makes one with openssl, in `folder`; `names`: its subjectAltName. */
export async function makeCertificate(
  folder: string,
  name: string,
  names = 'IP:127.0.0.1',
): Promise<Certificate> {
  const [key, cert] = [join(folder, `${name}.key`), join(folder, `${name}.crt`)];
  const kind = [
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:prime256v1',
    '-nodes',
    '-days',
    '30',
  ];
  const subject = ['-subj', `/CN=${name}`, '-addext', `subjectAltName=${names}`];
  await run('openssl', ['req', ...kind, ...subject, '-keyout', key, '-out', cert]);
  return { cert: await readFile(cert, 'utf8'), key: await readFile(key, 'utf8') };
}
