// count.mjs REPORT COUNTS: reads a report of `vitest --reporter=json` and writes "PASSED FAILED SKIPPED" into a file,
// for .ci/run, which adds them up. It says again what failed, in few lines, for the end of a long log, and names what
// was skipped, since where everything is installed nothing may be.
import { readFileSync, writeFileSync } from 'node:fs';

/** Of each failure: the message, what was compared and where. */
const SHOWN_CHARACTERS = 1500;

const [reportFile, countsFile] = process.argv.slice(2);
const report = JSON.parse(readFileSync(reportFile, 'utf8'));
const tests = report.testResults.flatMap(file => file.assertionResults);
const count = (...statuses) => tests.filter(({ status }) => statuses.includes(status)).length;
const tell = (name, message) => console.log(`failed: ${name}\n${message.slice(0, SHOWN_CHARACTERS)}`);

for (const { status, fullName, failureMessages } of tests) {
  if (status === 'failed') tell(fullName, failureMessages.join('\n'));
  else if (status !== 'passed') console.log(`${status}: ${fullName}`);
}
// A file that could not be loaded, or whose hooks failed, fails without a test of it having failed.
const brokenFiles = report.testResults.filter(
  file => file.status === 'failed' && !file.assertionResults.some(({ status }) => status === 'failed'),
);
for (const { name, message } of brokenFiles) tell(name, message);

const failed = count('failed') + brokenFiles.length;
writeFileSync(countsFile, `${count('passed')} ${failed} ${tests.length - count('passed', 'failed')}\n`);
