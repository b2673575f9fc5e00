// The image half of the kubelet's Container Runtime Interface (runtime.v1.ImageService), as far as tests need it:
// gRPC is a length-prefixed protobuf message over HTTP/2, and these messages hold nothing but strings.
import { connect as connectHttp2, constants } from 'node:http2';
import { connect } from 'node:net';

/** What the kubelet passes for a pull: one credential of the pod's pull secrets. */
export interface CriCredential {
  readonly username: string;
  readonly password: string;
}

const SERVICE = '/runtime.v1.ImageService';

/** A pull of a large image from a slow upstream takes less. */
const CALL_TIMEOUT_MS = 120_000;

export class CriImageService {
  readonly #socket: string;

  constructor(socket: string) {
    this.#socket = socket;
  }

  /** Pulls like the kubelet; returns the image's id, and throws with the runtime's message. */
  async pull(image: string, credential?: CriCredential): Promise<string> {
    const auth = credential === undefined ? [] : [message(2, authConfig(credential))];
    const answer = await this.#call('PullImage', Buffer.concat([imageSpec(image), ...auth]));
    return firstString(answer);
  }

  /** Removes the image; its content follows when containerd next collects. */
  async remove(image: string): Promise<void> {
    await this.#call('RemoveImage', imageSpec(image));
  }

  async #call(method: string, body: Buffer): Promise<Buffer> {
    const session = connectHttp2('http://localhost', { createConnection: () => connect(this.#socket) });
    try {
      return await new Promise<Buffer>((resolve, reject) => {
        session.once('error', reject);
        const stream = session.request({
          [constants.HTTP2_HEADER_METHOD]: 'POST',
          [constants.HTTP2_HEADER_PATH]: `${SERVICE}/${method}`,
          'content-type': 'application/grpc',
          te: 'trailers',
        });
        const chunks: Buffer[] = [];
        let status: Record<string, unknown> = {};
        stream.setTimeout(CALL_TIMEOUT_MS, () => stream.destroy(new Error(`${method}: no answer`)));
        stream.once('error', reject);
        stream.on('data', (chunk: Buffer) => chunks.push(chunk));
        // A call that fails before it sends anything carries its status in the headers.
        stream.once('response', headers => (status = { ...headers }));
        stream.once('trailers', trailers => (status = { ...status, ...trailers }));
        stream.once('end', () => {
          if (status['grpc-status'] === '0') resolve(Buffer.concat(chunks).subarray(PREFIX_BYTES));
          else reject(new Error(`${method}: ${decodeURIComponent(String(status['grpc-message']))}`));
        });
        stream.end(frame(body));
      });
    } finally {
      session.close();
    }
  }
}

/** One byte for "not compressed" and four for the length. */
const PREFIX_BYTES = 5;

function frame(body: Buffer): Buffer {
  const prefix = Buffer.alloc(PREFIX_BYTES);
  prefix.writeUInt32BE(body.length, 1);
  return Buffer.concat([prefix, body]);
}

/** `PullImageRequest` and `RemoveImageRequest` have it as field 1: an `ImageSpec` whose field 1 is the reference. */
function imageSpec(image: string): Buffer {
  return message(1, message(1, Buffer.from(image)));
}

function authConfig({ username, password }: CriCredential): Buffer {
  return Buffer.concat([message(1, Buffer.from(username)), message(2, Buffer.from(password))]);
}

/** A length-delimited protobuf field: strings and messages alike. */
function message(field: number, content: Buffer): Buffer {
  return Buffer.concat([Buffer.from([(field << 3) | 2, ...varint(content.length)]), content]);
}

function varint(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...varint(value >>> 7)];
}

/** Field 1 of a message that has only strings shorter than 128 bytes. */
function firstString(body: Buffer): string {
  const length = body[1] ?? 0;
  return body.subarray(2, 2 + length).toString();
}
