import { expect, test } from 'vitest';
import { imagesIn } from './image-list.ts';

const usesIn = (text: string) =>
  [...imagesIn(text).images].map(([name, { placements, platforms }]) => [
    name,
    [...placements.values()].map(({ runtimeClass }) => runtimeClass),
    [...platforms],
  ]);
const namesIn = (text: string) => [...imagesIn(text).images.keys()];

test('a list has one image per line; comments and empty lines are ignored', () => {
  const text =
    '# base\nnginx:1.27\n\n  ghcr.io/org/app@sha256:' + 'a'.repeat(64) + ' # pinned\nnginx:1.27\nredis\n';
  expect(namesIn(text)).toEqual(['nginx:1.27', `ghcr.io/org/app@sha256:${'a'.repeat(64)}`, 'redis']);
  expect(namesIn(text.replaceAll('\n', '\r\n'))).toEqual(namesIn(text));
  expect(namesIn('')).toEqual([]);
});

test('every container and image volume of every Kubernetes object counts', () => {
  const text = `
apiVersion: v1
kind: Pod
spec:
  initContainers: [{name: a, image: init:1}]
  containers:
    - {name: b, image: "main:1"}
    - {name: c}
    - {name: d, image: ""}
  ephemeralContainers: [{name: e, image: debug:1}]
  volumes:
    - {name: models, image: {reference: models:1, pullPolicy: Always}}
    - {name: other, emptyDir: {}}
---
apiVersion: batch/v1
kind: CronJob
spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: f, image: cron:1}]}}}}}
---
# an empty document
---
apiVersion: example.com/v1
kind: Rollout
spec: {template: {spec: {runtimeClassName: kata-windows, containers: [{name: g, image: rollout:1}, {name: h, image: main:1}]}}}
---
apiVersion: v1
kind: ConfigMap
data: {image: not-an-image:1}
`;
  const images = ['cron:1', 'debug:1', 'init:1', 'main:1', 'models:1', 'rollout:1'];
  expect(namesIn(text).sort()).toEqual(images);
  const main = imagesIn(text).images.get('main:1');
  expect([...(main?.placements.values() ?? [])]).toEqual([
    { runtimeClass: undefined, requirements: [] },
    { runtimeClass: 'kata-windows', requirements: [] },
  ]);
});

const pod = (image: string) => ({ kind: 'Pod', spec: { containers: [{ image }] } });

test('the JSON output of kubectl is parsed, with lists in it', () => {
  const list = { kind: 'List', items: [pod('one:1'), { kind: 'PodList', items: [pod('two:1')] }] };
  expect(namesIn(JSON.stringify(list, null, 2))).toEqual(['one:1', 'two:1']);
});

test('platforms at the end of a line replace the default ones', () => {
  const text =
    'nginx:1 linux/arm64,windows/amd64:10.0.20348 # both\nredis:7 all\n[::1]:5000/app:1\tlinux/arm64\n';
  expect(usesIn(text)).toEqual([
    ['nginx:1', [], ['linux/arm64', 'windows/amd64:10.0.20348']],
    ['redis:7', [], ['all']],
    ['[::1]:5000/app:1', [], ['linux/arm64']],
  ]);
  expect(usesIn('nginx:1\nnginx:1 linux/arm64\n')).toEqual([['nginx:1', [undefined], ['linux/arm64']]]);
  expect(usesIn('- nginx:1 linux/arm64\n')).toEqual([['nginx:1', [], ['linux/arm64']]]);
});

test('a YAML list of names is a list', () => {
  expect(namesIn('- nginx:1\n- redis:7\n')).toEqual(['nginx:1', 'redis:7']);
});

test('a malformed line is reported with its number and what is wrong, and the others count', () => {
  const text =
    '# images\n\nnginx:1\nUP.example/Bad\nredis:7 tow\nredis:7 linux/amd64 linux/arm64\n[::1]:5000/app:1\n';
  const { images, malformed } = imagesIn(text);
  expect([...images.keys()]).toEqual(['nginx:1', '[::1]:5000/app:1']);
  expect(malformed).toEqual([
    { line: 4, fault: expect.stringMatching(/lower-case: "UP\.example\/Bad"$/) },
    { line: 5, fault: expect.stringContaining('"tow" is not a platform') },
    {
      line: 6,
      fault: 'expected an image and optionally platforms: "redis:7 linux/amd64 linux/arm64"',
    },
  ]);
  expect(imagesIn('# a YAML list\n- nginx:1\n- Bad:1\n').malformed).toEqual([
    { line: 3, fault: expect.stringContaining('"Bad:1"') },
  ]);
});

test('objects are no list', () => {
  expect(namesIn('kind: Pod\nspec: {containers: [{image: main:1}]}\n')).toEqual(['main:1']);
  expect(namesIn('[{"spec": {"containers": [{"image": "main:1"}]}}]')).toEqual(['main:1']);
});

test('RuntimeClasses among the objects give their handlers', () => {
  const kata = { kind: 'RuntimeClass', metadata: { name: 'kata' }, handler: 'kata-windows' };
  const broken = { kind: 'RuntimeClass', metadata: { name: 'broken' } };
  const { handlers } = imagesIn(JSON.stringify({ kind: 'List', items: [kata, broken, pod('one:1')] }));
  expect([...handlers]).toEqual([['kata', 'kata-windows']]);
});

test('of a repeated key the last one counts, as in Kubernetes', () => {
  const text =
    'metadata: {labels: {app: a, app: a}}\nspec: {containers: [{image: "old:1", image: "new:1"}]}\n';
  expect(namesIn(text)).toEqual(['new:1']);
});

test('a syntax error has its line', () => {
  expect(() => namesIn('spec:\n  containers: [\n')).toThrow(expect.objectContaining({ name: 'YamlError' }));
});

test('the place of each image is reported, and each container without one', () => {
  const { places, unread } = imagesIn(`
kind: List
items:
  - kind: Deployment
    metadata: {name: shop, namespace: web}
    spec: {template: {spec: {containers: [{image: "main:1"}, {name: later}]}}}
  - kind: Pod
    metadata: {name: two}
    spec: {initContainers: [{name: init, image: ""}], containers: [{image: 8}], volumes: [{name: m, image: {}}]}
  - kind: Pod
    metadata: {name: one}
    spec: {containers: [{image: "main:1"}], volumes: [{image: {reference: "models:1"}}]}
`);
  expect([...places]).toEqual([
    ['main:1', 'Deployment web/shop: spec.template.spec.containers[0]'],
    ['models:1', 'Pod one: spec.volumes[0].image'],
  ]);
  expect(unread).toEqual([
    { text: undefined, place: 'Deployment web/shop: spec.template.spec.containers[1], later' },
    { text: '8', place: 'Pod two: spec.containers[0]' },
    { text: undefined, place: 'Pod two: spec.initContainers[0], init' },
    { text: undefined, place: 'Pod two: spec.volumes[0].image, m' },
  ]);
});

test.each([
  [
    'a field of a custom resource',
    'kind: Prometheus\nspec: {image: "quay.io/prometheus/prometheus:v3"}',
    'quay.io/prometheus/prometheus:v3',
  ],
  ['another one', 'spec: {thanos: {baseImage: "quay.io/thanos:v1"}}', 'quay.io/thanos:v1'],
  ['an image by its name', 'spec: {imageName: "ghcr.io/cnpg/postgresql:17"}', 'ghcr.io/cnpg/postgresql:17'],
  ["the container of Argo's template", 'spec: {templates: [{container: {image: "alpine:3"}}]}', 'alpine:3'],
  ["a step of Tekton's", 'spec: {steps: [{name: a, image: "gcr.io/kaniko:1"}]}', 'gcr.io/kaniko:1'],
  [
    'repository and tag',
    'image: {registry: quay.io, repository: org/app, tag: 1.27}',
    'quay.io/org/app:1.27',
  ],
  [
    'repository and digest',
    `image: {repository: app, digest: "sha256:${'a'.repeat(64)}"}`,
    `app@sha256:${'a'.repeat(64)}`,
  ],
  [
    'a related image',
    'spec: {containers: [{image: a, env: [{name: RELATED_IMAGE_X, value: "b:1"}]}]}',
    'b:1',
  ],
  ['a variable', 'env: [{name: SIDECAR_IMAGE, value: "b:1"}]', 'b:1'],
  ['an argument', 'args: ["--config-reloader-image=quay.io/reloader:1"]', 'quay.io/reloader:1'],
])('%s is likely an image, and not taken for one', (_, text, name) => {
  const { images, likely } = imagesIn(text);
  expect([...likely.keys()]).toEqual([name]);
  expect(images.has(name)).toBe(false);
});

test('the image of a container is not a guess, and a field that only looks like one is reported as ignored', () => {
  const { images, likely, unread } = imagesIn(`
kind: ConfigMap
metadata: {name: c}
data: {image: "{{ .Values.image }}"}
---
spec: {image: "main:1", imagePullPolicy: Always, repository: "https://charts.example", containers: [{image: "main:1"}]}
`);
  expect([...images.keys()]).toEqual(['main:1']);
  expect([...likely]).toEqual([]);
  expect(unread).toEqual([{ text: '{{ .Values.image }}', place: 'ConfigMap c: data.image' }]);
});
