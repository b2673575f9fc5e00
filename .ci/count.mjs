// count.mjs REPORT COUNTS: reads a report of `vitest --reporter=json` and writes "PASSED FAILED SKIPPED" into a file,
// for .ci/run, which adds them up. It names what was skipped, since where everything is installed nothing may be.
import { readFileSync, writeFileSync } from 'node:fs';

const [reportFile, countsFile] = process.argv.slice(2);
const report = JSON.parse(readFileSync(reportFile, 'utf8'));
const tests = report.testResults.flatMap(file => file.assertionResults);
const count = (...statuses) => tests.filter(({ status }) => statuses.includes(status)).length;

for (const { status, fullName } of tests) {
  if (status !== 'passed' && status !== 'failed') console.log(`${status}: ${fullName}`);
}
// A file that could not be loaded, or whose hooks failed, fails without a test of it having failed.
const brokenFiles = report.testResults.filter(
  file => file.status === 'failed' && !file.assertionResults.some(({ status }) => status === 'failed'),
);
for (const { name, message } of brokenFiles) console.log(`failed: ${name}: ${message}`);

const failed = count('failed') + brokenFiles.length;
writeFileSync(countsFile, `${count('passed')} ${failed} ${tests.length - count('passed', 'failed')}\n`);
