// Certificates of a test's own, where the one in tls/ is not enough: ones that are replaced by others.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './programs.ts';

export interface Certificate {
  /** PEM. If it is self-signed, it is also the CA to trust. */
  readonly cert: string;
  readonly key: string;
}

/** Makes one with openssl, in `folder`; `names`: its subjectAltName; `ca`: the name of the one that certifies it, or else itself. */
export async function makeCertificate(
  folder: string,
  name: string,
  names = 'IP:127.0.0.1',
  ca?: string,
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
  const issuer =
    ca === undefined ? [] : ['-CA', join(folder, `${ca}.crt`), '-CAkey', join(folder, `${ca}.key`)];
  await run('openssl', ['req', ...kind, ...subject, ...issuer, '-keyout', key, '-out', cert]);
  return { cert: await readFile(cert, 'utf8'), key: await readFile(key, 'utf8') };
}
