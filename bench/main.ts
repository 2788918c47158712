/**
 * `npm run bench`: measures the cases that the command line names and writes the results. The
 * command line is described by `usage`.
 */
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'

import { type Arguments, commandFor, parseArguments, usage } from './arguments.ts'
import type { Case } from './cases/case.ts'
import { cases } from './cases/index.ts'
import { benchFolder } from './folders.ts'
import { describeMachine, isInMemory } from './machine.ts'
import { firstLine } from './packages.ts'
import { sectionText } from './report/markdown.ts'
import { writeReport } from './report/write-report.ts'
import { readResults, type Section, withSection, writeResults } from './results.ts'
import { makeWorkspace } from './workspace.ts'

const names = cases.map(({ name }) => name)

const given = understood()
if (given === undefined) {
  process.exitCode = 2
} else {
  // A quick run is not a measurement, so it must not overwrite the results of one.
  const out = given.out ?? (given.isQuick ? undefined : benchFolder)
  if (out !== undefined) await mkdir(out, { recursive: true })
  let sections = out === undefined ? [] : readResults(out)
  if (!given.isRenderOnly) {
    const workspace = makeWorkspace(given.directory ?? benchFolder)
    for (const name of given.cases) {
      const what = cases.find((candidate) => candidate.name === name) as Case
      const section = await measure(what, workspace, given)
      process.stdout.write(`${sectionText(section)}\n`)
      sections = withSection(sections, section, names)
      // Written after each case, so that an interrupted run keeps the cases it has measured.
      if (out !== undefined) await writeResults(out, sections)
    }
  }
  // Read back from the file, so that a later `--render` gives the same report to the last digit.
  if (out !== undefined) await writeReport(out, readResults(out))
}

function understood(): Arguments | undefined {
  try {
    return parseArguments(process.argv.slice(2), names)
  } catch (error) {
    process.stderr.write(`${firstLine(error)}\n\n${usage}\n`)
    return undefined
  }
}

async function measure(what: Case, workspace: string, options: Arguments): Promise<Section> {
  const { name, title, method, plots } = what
  const machine = describeMachine(workspace)
  if (isInMemory(machine)) say(`${name}: on ${machine.fileSystem}, in memory, where a sync stores nothing`)
  // The average includes this process and the earlier cases, so only a load above `cores` counts.
  if (machine.load > machine.cores) say(`${name}: the machine is busy, load ${machine.load.toFixed(1)}`)
  const directory = join(workspace, name)
  await mkdir(directory)
  const begun = performance.now()
  const progress = (text: string): void => say(`${name}: ${text}`)
  const findings = await what.run({ directory, isQuick: options.isQuick, progress })
  await rm(directory, { recursive: true, force: true })
  const seconds = Math.round((performance.now() - begun) / 1000)
  say(`${name}: done after ${seconds} s`)
  for (const lack of findings.missing ?? []) say(`${name}: without ${lack.name}, ${lack.reason}`)
  return {
    name,
    title,
    method,
    date: new Date().toISOString().slice(0, 10),
    seconds,
    command: commandFor(name, options),
    machine,
    plots,
    comparisons: [],
    figures: [],
    courses: [],
    participants: [],
    missing: [],
    ...findings,
  }
}

function say(text: string): void {
  process.stderr.write(`${text}\n`)
}
