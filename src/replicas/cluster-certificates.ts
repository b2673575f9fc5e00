import { X509Certificate } from 'node:crypto';
import type { ConnectionOptions, TLSSocket, TlsOptions } from 'node:tls';
import { errorCode } from '../lib/error-code.ts';
import type { ClusterTls } from './cluster-tls.ts';

/** PEM texts. */
export interface ClusterMaterial {
  readonly cert: string;
  readonly key: string;
  /** The CAs of the certificates of all replicas. */
  readonly ca: string;
}

/** How Node names what is wrong with the certificate of a server, and OpenSSL what the other side says of one's own. */
const DISTRUST = /^(?:CERT_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|ERR_TLS_CERT_|ERR_SSL_)|_CA$/;

/** A certificate that does not say to which cluster it belongs; the message completes the sentence `expected …`. */
export class NamelessCertificate extends Error {
  override readonly name = 'NamelessCertificate';

  constructor() {
    super('a certificate with a DNS name (subjectAltName) that those of all replicas have');
  }
}

/**
 * Each side shows a certificate of a CA that both trust, and with a DNS name that both have: a CA may certify others, too, and
 * addresses of replicas may be of any kind. All may be replaced while the process runs; an existing connection stays until
 * what is being sent over it is complete.
 */
export class ClusterCertificates implements ClusterTls {
  #material: ClusterMaterial;
  #names: readonly string[];
  #version = 0;
  #renewed: () => void = () => {};

  /** Throws NamelessCertificate. */
  constructor(material: ClusterMaterial) {
    this.#material = material;
    this.#names = namesOf(material);
  }

  /** From now on these are used. Throws NamelessCertificate, and changes nothing then. */
  renew(material: ClusterMaterial): void {
    this.#names = namesOf(material);
    this.#material = material;
    this.#version += 1;
    this.#renewed();
  }

  get version(): number {
    return this.#version;
  }

  get forServer(): TlsOptions {
    return { ...this.#material, minVersion: 'TLSv1.3', requestCert: true, rejectUnauthorized: true };
  }

  get forClient(): ConnectionOptions {
    return {
      ...this.#material,
      minVersion: 'TLSv1.3',
      rejectUnauthorized: true,
      checkServerIdentity: (_host, { raw }) =>
        this.#isNamed(new X509Certificate(raw))
          ? undefined
          : Object.assign(new Error('the certificate has no name in common with that of this replica'), {
              code: 'ERR_TLS_CERT_ALTNAME_INVALID',
            }),
    };
  }

  admits(socket: TLSSocket): boolean {
    const certificate = socket.getPeerX509Certificate();
    return socket.authorized && certificate !== undefined && this.#isNamed(certificate);
  }

  /** A server that does not trust its client closes the connection silently, after the handshake of TLS 1.3. */
  isDistrust(failure: unknown, isSecured: boolean): boolean {
    return isSecured || DISTRUST.test(errorCode(failure) ?? '');
  }

  follow(renewed: () => void): void {
    this.#renewed = renewed;
  }

  #isNamed(certificate: X509Certificate): boolean {
    const options = { subject: 'never', wildcards: false } as const;
    return this.#names.some(name => certificate.checkHost(name, options) !== undefined);
  }
}

/** The DNS names of one's own certificate. */
function namesOf({ cert }: ClusterMaterial): readonly string[] {
  const { subjectAltName = '' } = new X509Certificate(cert);
  const names = subjectAltName.split(', ').flatMap(each => /^DNS:([A-Za-z0-9._-]+)$/.exec(each)?.[1] ?? []);
  if (names.length === 0) throw new NamelessCertificate();
  return names;
}
