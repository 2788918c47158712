import { execFile } from 'node:child_process'
import { mkdir, open } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { promisify } from 'node:util'

import { compare, type Entrant, type Slice } from '../comparison.ts'
import type { Appendable } from '../contestants/contestant.ts'
import { appendables, loadAll } from '../contestants/index.ts'
import { syntheticRecord } from '../data/synthetic.ts'
import { benchFolder } from '../folders.ts'
import { libraryUrl } from '../library.ts'
import type { Comparison } from '../results.ts'
import { turnAbout } from '../turn-about.ts'
import type { Case, Context } from './case.ts'

const run = promisify(execFile)
const packages = ['better-sqlite3', 'node:sqlite', 'classic-level', 'lmdb']
const smallRecords = 100

export const startStopCase: Case = {
  name: 'start-stop',
  title: 'Start and stop',
  method: [
    '*import*: a fresh process that imports the package and ends, against `node` with nothing to do. What ' +
      'is loaded only at the first use is not in it: ministore loads the lock of the kernel when a journal ' +
      'is opened, better-sqlite3 its compiled part with the first database.',
    `*open and close*: in a running process, a store of ${smallRecords} records that was closed before, ` +
      'against a file handle of the same lines that is opened, read and closed.',
  ],
  async run(context) {
    const { loaded, missing } = await loadAll(appendables)
    const present = packages.filter((name) => loaded.some((contestant) => contestant.name === name))
    context.progress('import')
    const imports = await compareImports(context, present)
    context.progress('open and close')
    const stores = loaded.filter(({ name }) => ['ministore', ...packages].includes(name))
    return { comparisons: [imports, await compareOpening(context, stores)], missing }
  },
}

async function compareImports(context: Context, peers: readonly string[]): Promise<Comparison> {
  const programs = new Map([
    ['node -e 0', '0'],
    ['import ministore', `import ${JSON.stringify(libraryUrl)}`],
    ...peers.map((name): [string, string] => [`import ${name}`, `import ${JSON.stringify(name)}`]),
  ])
  const entrants = [...programs.keys()].map((name): Entrant => {
    const role = name === 'node -e 0' ? 'floor' : name === 'import ministore' ? 'library' : 'peer'
    const because = name === 'import node:sqlite' ? 'it is a part of Node' : undefined
    return { name, role, notes: [], because }
  })
  const runners = [...programs].map(([name, program]) => ({ name, run: () => startSlice(program) }))
  await turnAbout(runners, 1)
  const slices = await turnAbout(runners, context.isQuick ? 1 : 15)
  return compare({ label: 'import in a fresh process', unit: 'process' }, entrants, slices)
}

async function startSlice(program: string): Promise<Slice> {
  const begun = performance.now()
  await run(process.execPath, ['--input-type=module', '--eval', program], { cwd: benchFolder })
  const time = (performance.now() - begun) * 1e6
  return { units: 1, time }
}

async function compareOpening(context: Context, stores: readonly Appendable[]): Promise<Comparison> {
  const records = Array.from({ length: smallRecords }, (_, id) => syntheticRecord(id, 150))
  const floorName = 'fs.promises, open + readFile + close'
  const entrants: Entrant[] = [{ name: floorName, role: 'floor', notes: [] }]
  const lines = join(context.directory, 'lines')
  const handle = await open(lines, 'w')
  await handle.writeFile(records.map((record) => `${JSON.stringify(record)}\n`).join(''))
  await handle.close()
  const actions = new Map<string, () => Promise<void>>([[floorName, () => readOnce(lines)]])
  for (const store of stores) {
    const folder = join(context.directory, store.name.replaceAll(/\W/g, '-'))
    await mkdir(folder)
    const path = join(folder, 'log')
    const log = await store.open(path)
    await log.appendAll(records)
    await log.close()
    entrants.push(storeEntrant(store))
    actions.set(store.name, async () => (await store.open(path)).close())
  }
  const runners = [...actions].map(([name, action]) => ({ name, run: () => actionSlice(action) }))
  await turnAbout(runners, context.isQuick ? 1 : 5)
  const slices = await turnAbout(runners, context.isQuick ? 2 : 41)
  const label = `open and close, records=${smallRecords} record=150B`
  return compare({ label, unit: 'open and close' }, entrants, slices)
}

function storeEntrant({ name }: Appendable): Entrant {
  if (name === 'ministore') return { name, role: 'library', notes: [] }
  // Observed under strace. classic-level makes as many syncs as ministore does.
  const because = 'it syncs nothing here, while opening ministore syncs the journal and its directory'
  return { name, role: 'peer', notes: [], because: name === 'classic-level' ? undefined : because }
}

async function readOnce(path: string): Promise<void> {
  const handle = await open(path)
  await handle.readFile()
  await handle.close()
}

async function actionSlice(action: () => Promise<void>): Promise<Slice> {
  const begun = performance.now()
  await action()
  const time = (performance.now() - begun) * 1e6
  return { units: 1, time }
}
