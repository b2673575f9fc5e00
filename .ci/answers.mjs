// Waits until a URL answers 200, or, with "gone" behind it, until nothing answers there any more; exit code 1 after
// 60 seconds. Only Node is needed, so that it works before anything is installed.
const [url, wanted] = process.argv.slice(2);
const end = Date.now() + 60_000;

while (Date.now() < end) {
  const status = await fetch(url).then(
    response => response.status,
    () => 'gone',
  );
  if (wanted === 'gone' ? status === 'gone' : status === 200) process.exit(0);
  await new Promise(resolve => setTimeout(resolve, 100));
}
console.error(`${url}: not ${wanted ?? 200} after 60 s`);
process.exit(1);
