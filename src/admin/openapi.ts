import { z } from '../config/fields.ts';
import { eventSchemas } from './documents/events.ts';
import { problemSchema } from './documents/problem.ts';
import { ADMIN_OPERATIONS, ADMIN_PATH, type AdminOperation } from './operations.ts';

type JsonSchema = Readonly<Record<string, unknown>>;

/** The OpenAPI 3.1 description of the administration API, as JSON. */
export function adminDescription(version: string): string {
  return JSON.stringify({
    openapi: '3.1.0',
    info: {
      title: 'Entrepot administration',
      version,
      description:
        'What operators see and do. Members may be added to answers; none is removed or changes its meaning.',
    },
    servers: [{ url: ADMIN_PATH }],
    security: [{}, { login: [] }, { kubernetes: [] }],
    paths: { ...operationPaths(), ...otherPaths() },
    components: {
      securitySchemes: {
        login: { type: 'http', scheme: 'basic', description: 'A login of server.admins' },
        kubernetes: {
          type: 'http',
          scheme: 'bearer',
          description: 'A Kubernetes token; see kubernetes.adminPath',
        },
      },
      schemas: { Problem: schemaOf(problemSchema, 'output') },
    },
  });
}

function operationPaths(): Readonly<Record<string, object>> {
  const paths: Record<string, Record<string, object>> = {};
  for (const [id, operation] of Object.entries<AdminOperation>(ADMIN_OPERATIONS)) {
    const at = (paths[operation.path] ??= {});
    at[operation.method.toLowerCase()] = describe(id, operation);
  }
  return paths;
}

function describe(operationId: string, operation: AdminOperation): object {
  const { path, summary, rights, query, body, answer, status = 200 } = operation;
  const parameters = [
    ...(path.includes('{id}')
      ? [{ name: 'id', in: 'path', required: true, schema: { type: 'string' } }]
      : []),
    ...(query === undefined ? [] : parametersOf(query)),
    ...(rights === 'full' ? [TOKEN_PARAMETER] : []),
  ];
  return {
    operationId,
    summary,
    ...(parameters.length > 0 && { parameters }),
    ...(body !== undefined && { requestBody: { required: true, content: json(schemaOf(body, 'input')) } }),
    responses: {
      [status]: { description: summary, content: json(schemaOf(answer, 'output')) },
      default: {
        description: 'What is wrong with the request',
        content: json({ $ref: '#/components/schemas/Problem' }),
      },
    },
  };
}

const TOKEN_PARAMETER = {
  name: 'X-Entrepot-Token',
  in: 'header',
  required: true,
  description: 'The token of /session; not needed on the socket',
  schema: { type: 'string' },
} as const;

/** Of what is not JSON documents with a schema of their own. */
function otherPaths(): Readonly<Record<string, object>> {
  const events = Object.entries(eventSchemas).map(([name, schema]) => ({
    title: name,
    ...schemaOf(schema, 'output'),
  }));
  return {
    '/events': {
      get: {
        operationId: 'events',
        summary: 'A stream of changes (server-sent events); data is JSON, by the name of the event',
        parameters: [{ name: 'Last-Event-ID', in: 'header', schema: { type: 'string' } }],
        responses: {
          200: { description: 'The stream', content: { 'text/event-stream': { schema: { oneOf: events } } } },
        },
      },
    },
    '/openapi.json': {
      get: {
        operationId: 'description',
        summary: 'This document',
        responses: { 200: { description: 'This document', content: json({ type: 'object' }) } },
      },
    },
  };
}

function parametersOf(query: z.ZodObject): readonly object[] {
  const { properties = {}, required = [] } = schemaOf(query, 'input');
  const names = Array.isArray(required) ? required : [];
  return Object.entries(properties).map(([name, schema]: [string, JsonSchema]) => {
    const { description, ...rest } = schema;
    return {
      name,
      in: 'query',
      required: names.includes(name),
      ...(description !== undefined && { description }),
      schema: rest,
    };
  });
}

function json(schema: object): object {
  return { 'application/json': { schema } };
}

function schemaOf(
  schema: z.ZodType,
  io: 'input' | 'output',
): JsonSchema & { readonly properties?: Readonly<Record<string, JsonSchema>> } {
  const described: JsonSchema = JSON.parse(
    JSON.stringify(
      z.toJSONSchema(schema, {
        io,
        unrepresentable: 'any',
        override: ({ jsonSchema }) => {
          // A type of TypeScript's, not something that a server ignores in requests.
          delete jsonSchema.readOnly;
          // Members may be added to answers.
          if (io === 'output') delete jsonSchema.additionalProperties;
        },
      }),
    ),
  );
  const { $schema: _version, ...rest } = described;
  return rest;
}
