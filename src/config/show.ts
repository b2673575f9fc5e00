import { formatYaml } from '../lib/yaml.ts';
import type { Config, EndpointConfig, LoginConfig, UpstreamConfig } from './config.ts';
import { z } from './fields.ts';
import { PRESETS } from './presets.ts';
import { fileSchema, type ParsedEndpoint, type ParsedFile, type ParsedUpstream } from './schema.ts';

/**
 * The effective configuration as an equivalent YAML file, with defaults and presets. Passwords are not included, only
 * their sources; query values in the URLs of endpoints, which may be secrets, are replaced by `***`.
 */
export function showConfig(config: Config): string {
  return formatYaml(shownConfig(config));
}

/** The document that `showConfig` formats. */
export function shownConfig(config: Config): object {
  const endpoints = config.notifications.endpoints.map(endpoint => ({
    ...endpoint,
    url: withoutQueryValues(endpoint.url),
  }));
  return writtenConfig({ ...config, notifications: { endpoints } });
}

/** The URL with only the names of its query parameters. One without a name is all value. */
function withoutQueryValues(url: string): string {
  const at = url.indexOf('?');
  if (at === -1) return url;
  const shown = url
    .slice(at + 1)
    .split('&')
    .map(parameter =>
      parameter.includes('=') ? `${parameter.slice(0, parameter.indexOf('='))}=***` : '***',
    );
  return `${url.slice(0, at)}?${shown.join('&')}`;
}

/** The document of an equivalent file, with query values. */
export function writtenConfig(config: Config): object {
  const shown = z.encode(fileSchema, parsedFileOf(config));
  const off = Object.keys(PRESETS).filter(name => !config.upstreams.has(name));
  const withOff = { ...shown.upstreams, ...Object.fromEntries(off.map(name => [name, false])) };
  return { ...shown, upstreams: withOff };
}

/** An equivalent parsed file, without what was read for it. */
export function parsedFileOf(config: Config): ParsedFile {
  const {
    upstreams,
    notifications,
    admins: _admins,
    proxy: _proxy,
    environment: _environment,
    origin: _origin,
    ...rest
  } = config;
  const written = [...upstreams.values()].map(upstream => [upstream.name, unread(upstream)] as const);
  return {
    ...rest,
    upstreams: Object.fromEntries(written),
    notifications: { endpoints: notifications.endpoints.map(unreadEndpoint) },
  };
}

function unreadEndpoint({
  headers: _headers,
  signingKey: _key,
  ca: _ca,
  ...endpoint
}: EndpointConfig): ParsedEndpoint {
  return endpoint;
}

function unread({ name: _name, ca: _ca, credentials, mirrors, ...upstream }: UpstreamConfig): ParsedUpstream {
  return {
    ...upstream,
    credentials: unreadLogin(credentials),
    mirrors: mirrors.map(mirror =>
      mirror.credentials === undefined
        ? { url: mirror.url }
        : { url: mirror.url, credentials: unreadLogin(mirror.credentials) },
    ),
  };
}

function unreadLogin(login: LoginConfig | undefined): ParsedUpstream['credentials'] {
  if (login === undefined) {
    return undefined;
  }
  const { password: _password, ...named } = login;
  return named;
}
