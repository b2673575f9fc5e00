// Reads a report of `vitest --reporter=json` and prints "PASSED FAILED SKIPPED" for .ci/run, which adds them up.
// What was skipped is named on standard error: where everything is installed nothing may be.
import { readFileSync } from 'node:fs';

const report = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const tests = report.testResults.flatMap(file => file.assertionResults);
const count = (...statuses) => tests.filter(({ status }) => statuses.includes(status)).length;

for (const { status, fullName } of tests) {
  if (status !== 'passed' && status !== 'failed') console.error(`${status}: ${fullName}`);
}
// A file that could not be loaded, or whose hooks failed, fails without a test of it having failed.
const brokenFiles = report.testResults.filter(
  file => file.status === 'failed' && !file.assertionResults.some(({ status }) => status === 'failed'),
);
for (const { name, message } of brokenFiles) console.error(`failed: ${name}: ${message}`);

const failed = count('failed') + brokenFiles.length;
console.log(count('passed'), failed, tests.length - count('passed', 'failed'));
