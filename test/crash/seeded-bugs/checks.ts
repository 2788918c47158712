import { crc32 } from 'node:zlib'

import { groupCommit, MiniStore, MiniStoreError } from '../../../src/index.ts'
import { type FileSystem, SimulatedFileSystem } from '../../../src/testing/index.ts'
import { elsewhere } from '../../support/elsewhere.ts'
import { CrashHarness, type Workload } from '../harness.ts'
import { type ExpectedJournal, JournalModel, journalPath } from '../journal/model.ts'
import { type FoundJournal, JournalOracle } from '../journal/oracle.ts'
import { assertRefused } from '../journal/workloads.ts'
import { bytesChecks } from './bytes-checks.ts'
import { faultChecks } from './fault-checks.ts'
import { followerChecks } from './follower-checks.ts'
import { queueChecks } from './queue-checks.ts'
import { replicaChecks } from './replica-checks.ts'
import type { Sabotage } from './sabotage.ts'
import { snapChecks } from './snap-checks.ts'
import { stateChecks } from './state-checks.ts'
import { viewChecks } from './view-checks.ts'

/** What a check found wrong: the check's name and the first line of the reason. */
export interface Finding {
  readonly check: string
  readonly why: string
}

/**
 * What the checks share. They use one harness, so that a state that several of them meet is opened
 * once.
 */
export interface CheckContext {
  /** Makes a fresh, sabotaged disk. */
  readonly newFiles: () => SimulatedFileSystem
  readonly sabotage: Sabotage
  readonly harness: CrashHarness<ExpectedJournal, FoundJournal>
}

/** A check, which throws when the library breaks its promise. */
export type Check = readonly [name: string, run: (context: CheckContext) => Promise<void>]

/**
 * An oracle that sabotages its own opening of a state too, so that a defect of recovery shows in
 * it.
 */
class SabotagedOracle extends JournalOracle {
  readonly #sabotage: Sabotage

  constructor(sabotage: Sabotage) {
    super()
    this.#sabotage = sabotage
  }

  override find(state: SimulatedFileSystem): Promise<FoundJournal> {
    this.#sabotage(state)
    return super.find(state)
  }

  override recover(state: SimulatedFileSystem): Promise<void> {
    this.#sabotage(state)
    return super.recover(state)
  }
}

/**
 * Runs the compact crash suite, each check up to its first finding. Returns the findings, which are
 * none if the library is sound.
 *
 * It tests the library in `src` three directories above this file. In the checkout that is the real
 * library; in a patched copy it is the one with the defect.
 *
 * @param isEnough ends the suite at a finding; without it every check runs.
 * @param isTried chooses checks by their names; without it all checks run.
 */
export async function findDefects(
  sabotage: Sabotage,
  isEnough: (finding: Finding) => boolean = () => false,
  isTried: (check: string) => boolean = () => true,
): Promise<{ readonly findings: readonly Finding[]; readonly distinctStates: number }> {
  const harness = new CrashHarness<ExpectedJournal, FoundJournal>(new SabotagedOracle(sabotage))
  const newFiles = (): SimulatedFileSystem => {
    const files = new SimulatedFileSystem()
    sabotage(files)
    return files
  }
  const findings: Finding[] = []
  for (const [check, run] of allChecks) {
    if (!isTried(check)) continue
    try {
      await run({ newFiles, sabotage, harness })
    } catch (error) {
      const finding = { check, why: reasonOf(error) }
      findings.push(finding)
      if (isEnough(finding)) break
    }
  }
  return { findings, distinctStates: harness.counts.distinct }
}

/** The reason of an error, without the moment and the disk, which take a page. */
function reasonOf(error: unknown): string {
  const { cause } = error instanceof Error ? error : {}
  return String(cause ?? error).split('\n')[0] ?? ''
}

// Small limits, since the suite runs once for each defect.
const options = { seed: 1, limit: 24, insideEvery: 40 }

/** A scripted workload, crashed before every operation. */
function workloadCheck(
  name: string,
  run: (model: JournalModel, files: SimulatedFileSystem) => Promise<void>,
): Check {
  return [
    name,
    ({ harness, newFiles }) => {
      const model = new JournalModel()
      const { expected } = model
      return harness.run({ name, run: (files) => run(model, files), expected }, options, newFiles())
    },
  ]
}

const workloadChecks: readonly Check[] = [
  workloadCheck('made, appended to, closed, opened again', async (model, files) => {
    const store = await model.open(files)
    await model.append(store, { n: 1 })
    await model.append(store, 123_456)
    await store.close()
    const again = await model.open(files)
    await model.append(again, 'ä€😀')
    await again.close()
  }),
  workloadCheck('appendAll, alone and after others', async (model, files) => {
    const store = await model.open(files)
    await model.appendAll(store, [1, { n: 2 }, 3])
    await model.append(store, 4)
    await model.appendAll(store, [5, 6])
    await store.close()
  }),
  workloadCheck('appends that overlap, a close behind them', async (model, files) => {
    const store = await model.open(files, { maxBytesPerSegment: 100 })
    const appends = [1, 2, 3, 4, 5].map((n) => model.append(store, { n }))
    await Promise.all([...appends, model.appendAll(store, [6, 7]), store.close()])
  }),
  workloadCheck('group: appends that share an fsync, one refused, and a stream', async (model, files) => {
    const store = await model.open(files)
    const group = groupCommit(store, { maxRecords: 3 })
    const append = (n: number): Promise<void> => model.appendInGroup(store, group, { n })
    const appends = [1, 2, 3, 4].map(append)
    await assertRefused(group.append(undefined))
    await Promise.all([...appends, append(5), append(6)])
    await model.pipeIntoGroup(store, group, [7, 8])
    await group.close()
    await store.close()
  }),
  workloadCheck('preallocating, appendAll and rotations between', async (model, files) => {
    const text = 'x'.repeat(700)
    const store = await model.open(files, { preallocate: 2000, maxBytesPerSegment: 4000 })
    for (const record of [1, { text }, 3]) await model.append(store, record)
    await model.appendAll(store, [4, { text }])
    await model.append(store, 6)
    await model.rotate(store)
    await model.append(store, { text })
    await store.close()
  }),
  workloadCheck('rotations, asked for and by size', async (model, files) => {
    const store = await model.open(files, { maxBytesPerSegment: 90 })
    for (let n = 1; n <= 5; n++) await model.append(store, { n })
    await model.rotate(store)
    await model.append(store, 6)
    await store.close()
    const again = await model.open(files)
    await model.rotate(again)
    await model.append(again, 7)
    await again.close()
  }),
  workloadCheck('retention, of one segment and of several', async (model, files) => {
    const store = await model.open(files, { maxBytesPerSegment: 80, maxSegments: 4 })
    for (let n = 1; n <= 6; n++) await model.append(store, { n })
    await store.close()
    const again = await model.open(files, { maxBytesPerSegment: 80, maxSegments: 1 })
    for (let n = 7; n <= 8; n++) await model.append(again, { n })
    await again.close()
  }),
  workloadCheck('truncateBefore of several segments, then of all', async (model, files) => {
    const store = await model.open(files, { maxBytesPerSegment: 80 })
    for (let n = 1; n <= 6; n++) await model.append(store, { n })
    await model.truncateBefore(store, 5)
    await model.rotate(store)
    await model.truncateBefore(store, 7)
    await store.close()
    const emptied = await model.open(files)
    await model.append(emptied, 7)
    await emptied.close()
  }),
  [
    'rotations past segment number 999',
    ({ harness, newFiles }) => harness.run(pastThreeDigits(), options, newFiles()),
  ],
]

const header = '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833\n'

const oldHeader = '// MINISTORE JOURNAL v0.2.0 seq=1\n'

/** Begins with segment 998, so that a thousand rotations need not be made. */
function pastThreeDigits(): Workload<ExpectedJournal> {
  const issued = ['1', '2', '3']
  let acknowledged = 3
  return {
    name: 'past segment 999',
    expected: () => ({
      issued: [...issued],
      acknowledged,
      floor: { lowest: 1, highest: 1 },
      isManyLines: false,
    }),
    run: async (files) => {
      const sealed = `${header}1\n2\n`
      const previous = crc32(sealed).toString(16).padStart(8, '0')
      files.writeFile(`${journalPath}.998`, sealed)
      files.writeFile(journalPath, `// MINISTORE JOURNAL v0.3.0 seq=3 id=5c1e9a70b2f4d833 prev=${previous}\n3\n`)
      const store = await MiniStore.open(journalPath, { fileSystem: files })
      for (const record of [4, 5]) {
        await store.rotate()
        issued.push(String(record))
        await store.append(record)
        acknowledged = record
      }
      await store.close()
    },
  }
}

const half = '{"n":'
/** Files beside the journal, by the ending of their names. */
const found: ReadonlyArray<readonly [name: string, files: Record<string, string>, records: string[]]> = [
  ['a torn tail', { '': `${header}1\n2\n${half}` }, ['1', '2']],
  ['a torn tail that parses', { '': `${header}1\n2\n12` }, ['1', '2']],
  ['a torn tail, evidence of another', { '': `${header}1\n2\n${half}`, '.torn-3': 'other' }, ['1', '2']],
  ['padding', { '': `${header}1\n2\n${'\0'.repeat(100)}` }, ['1', '2']],
  ['a torn tail inside padding', { '': `${header}1\n2\n{"n\0\0:1}\n${'\0'.repeat(100)}` }, ['1', '2']],
  ['a torn tail, half its evidence', { '': `${header}1\n2\n${half}`, '.torn-3.tmp': '{' }, ['1', '2']],
  ['half a header', { '': header.slice(0, 20), '.next': header }, []],
  ['no active segment', { '.001': `${header}1\n2\n`, '.next': '', '.seal.tmp': 'bytes=' }, ['1', '2']],
  ['an old journal', { '': `${oldHeader}1\n2\n` }, ['1', '2']],
  ['an old journal without records', { '': oldHeader }, []],
  ['a journal that an older program has rotated', { '.001': `${header}1\n2\n`, '': `${oldHeader.replace('1\n', '3')} prev=${crc32(`${header}1\n2\n`).toString(16).padStart(8, '0')}\n3\n` }, ['1', '2', '3']],
]

const recoveryChecks: readonly Check[] = found.map(([name, content, records]) => [
  `recovery of ${name}`,
  async ({ harness, newFiles, sabotage }) => {
    const expected: ExpectedJournal = {
      issued: records,
      acknowledged: records.length,
      floor: { lowest: 1, highest: 1 },
      isManyLines: false,
    }
    const recovery: Workload<ExpectedJournal> = {
      name,
      expected: () => expected,
      run: (files) => new SabotagedOracle(sabotage).recover(files),
    }
    const files = newFiles()
    for (const [ending, text] of Object.entries(content)) files.writeFile(journalPath + ending, text)
    await harness.run(recovery, { seed: 7, limit: 60, insideEvery: 4 }, files)
  },
])

const directChecks: readonly Check[] = [
  [
    'a reader notices that another journal has taken the place of its own',
    async ({ newFiles }) => {
      const [files, others] = [newFiles(), newFiles()]
      const [own, other] = await Promise.all([files, others].map((disk) => MiniStore.open(journalPath, { fileSystem: disk })))
      if (own === undefined || other === undefined) throw new Error('a store is missing')
      await own.appendAll([1, 2, 3])
      await own.close()
      // A reader that continues after record 3 is given no earlier record, so only the identity tells it.
      await other.appendAll(['A', 'B'])
      await other.rotate()
      await other.appendAll(['C', 'D'])
      await other.truncateBefore(3)
      await other.close()
      const reader = await MiniStore.read(journalPath, { fileSystem: elsewhere(files) })
      if (reader.lastSequence !== 3) throw new Error(`the reader ends with ${reader.lastSequence}`)
      files.writeFile(`${journalPath}.other`, others.readFile(journalPath))
      await files.rename(`${journalPath}.other`, journalPath)
      const next = await reader.entries({ from: 4 }).values().next().catch((thrown: unknown) => thrown)
      if (!(next instanceof MiniStoreError)) throw new Error(`a reader continues in another journal with ${JSON.stringify(next)}`)
    },
  ],
  [
    // The oracle judges one opening. After a crash in the middle of a recovery, the next opening
    // may find nothing torn. The oracle then asks for no evidence, so only this check sees whether
    // the evidence was saved first.
    'at every crash in a recovery the torn bytes are in the journal or in the evidence',
    async ({ newFiles }) => {
      const files = newFiles()
      files.writeFile(journalPath, `${header}1\n2\n${half}`)
      const states: Array<Iterable<SimulatedFileSystem>> = []
      files.onOperation(() => states.push(files.crashStates({ seed: 1, limit: 200 })))
      const store = await MiniStore.open(journalPath, { fileSystem: files })
      await store.close()
      states.push(files.crashStates({ seed: 1, limit: 200 }))
      for (const state of states.flatMap((some) => [...some])) {
        const isThere = [...state.snapshot()].some(
          ([path, bytes]) =>
            (path === journalPath && bytes.toString().endsWith(`\n${half}`)) ||
            (/\.torn-3(?:-\d+)?$/.test(path) && bytes.equals(Buffer.from(half))),
        )
        if (!isThere) throw new Error('torn bytes were cut, and no evidence holds them')
      }
    },
  ],
  [
    'a second process is refused while the first writes, and admitted when it has closed',
    async ({ newFiles }) => {
      const files = newFiles()
      const first = await MiniStore.open(journalPath, { fileSystem: elsewhere(files) })
      await expectLocked(elsewhere(files), true)
      await first.append(1)
      await first.rotate()
      await expectLocked(elsewhere(files), true)
      await first.close()
      const second = await MiniStore.open(journalPath, { fileSystem: elsewhere(files) })
      await second.close()
    },
  ],
  [
    'a second process is refused when the lock file was removed, before a rotation and after',
    async ({ newFiles }) => {
      const files = newFiles()
      const first = await MiniStore.open(journalPath, { fileSystem: elsewhere(files) })
      await first.append(1)
      for (let look = 0; look < 2; look++) {
        await files.unlink(`${journalPath}.lock`)
        await expectLocked(elsewhere(files), true)
        await first.rotate()
      }
      await first.close()
    },
  ],
  [
    'a journal in the place of one that was removed is left alone by the writer of that one',
    async ({ newFiles }) => {
      for (const change of ['rotate', 'close'] as const) {
        const files = newFiles()
        const old = await MiniStore.open(journalPath, { fileSystem: elsewhere(files) })
        await old.append('old')
        for (const name of files.snapshot().keys()) await files.unlink(name)
        const current = await MiniStore.open(journalPath, { fileSystem: elsewhere(files) })
        await current.append('new')
        const before = files.snapshot()
        const error: unknown = await old[change]().catch((thrown: unknown) => thrown)
        await old.close().catch(() => {})
        for (const [name, bytes] of new Map([...files.snapshot(), ...before])) {
          const isSame = before.get(name)?.equals(bytes) === true && files.exists(name)
          if (!isSame) throw new Error(`it was changed: ${name}`)
        }
        if (!(error instanceof MiniStoreError)) throw new Error('it said nothing')
        await current.close()
      }
    },
  ],
  [
    'a second writer in the same process is refused without a kernel lock too',
    async ({ newFiles }) => {
      const files = newFiles()
      const first = await MiniStore.open(journalPath, { fileSystem: files, lock: false })
      await expectLocked(files, false)
      await first.close()
    },
  ],
]

async function expectLocked(fileSystem: FileSystem, lock: boolean): Promise<void> {
  let second: MiniStore
  try {
    second = await MiniStore.open(journalPath, { fileSystem, lock })
  } catch (error) {
    if (error instanceof MiniStoreError && error.code === 'ERR_MINISTORE_LOCKED') return
    throw error
  }
  await second.close()
  throw new Error('a second writer was admitted')
}

const allChecks: readonly Check[] = [
  ...directChecks, ...bytesChecks, ...snapChecks, ...replicaChecks, ...stateChecks, ...viewChecks, ...recoveryChecks, ...workloadChecks,
  ...faultChecks, ...followerChecks, ...queueChecks,
]
