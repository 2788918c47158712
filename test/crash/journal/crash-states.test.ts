import '../../support/fixed-identity.ts'

import { afterAll, describe, expect, test } from 'vitest'

import { MiniStore } from '../../../src/index.ts'
import { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { isFullCrashSuite, scaled } from '../../support/crash-scale.ts'
import { CrashFinding, CrashHarness, type Workload } from '../harness.ts'
import { type ExpectedJournal, JournalModel, journalPath, journalWorkload } from './model.ts'
import { type FoundJournal, JournalOracle } from './oracle.ts'
import { blockRecords, longRecords, preallocatingWorkloads, scriptedWorkloads, shortRecords } from './workloads.ts'
import { OrderMonitor } from './order-monitor.ts'

// Scripted workloads and recovery. Random workloads are in crash-states-random.test.ts and its
// sibling. The floors of the three files add up to more than 50,000 distinct states in the ordinary
// suite and a million in the full one.
const floor = scaled(9500, 105_000)
const limit = scaled(120, 200)
const nesting = scaled(1, 2)
const salts = Array.from({ length: scaled(1, 8) }, (_, index) => index + 1)

const oracle = new JournalOracle()
const harness = new CrashHarness<ExpectedJournal, FoundJournal>(oracle)

const scripted = salts.flatMap((salt) =>
  [
    { kind: 'short', scripts: [...scriptedWorkloads(shortRecords(salt)), ...preallocatingWorkloads(shortRecords(salt))] },
    { kind: 'long', scripts: scriptedWorkloads(longRecords(salt)) },
    { kind: 'block', scripts: preallocatingWorkloads(blockRecords(salt)) },
  ].flatMap(({ kind, scripts }) =>
    scripts.map((script) => ({ script, salt, name: `${script.name} (${kind} records, salt ${salt})` })),
  ),
)

describe('every crash of a scripted workload leaves a journal that opens with what was acknowledged', () => {
  test.each(scripted)('$name', { timeout: scaled(120_000, 1_200_000) }, async ({ script, salt }) => {
    const before = harness.counts.distinct
    await harness.run(script, { seed: salt, limit, nesting })
    expect(harness.counts.distinct - before).toBeGreaterThan(100)
  })
})

describe('recovery itself', () => {
  const header = '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833\n'
  const torn: Array<[string, Record<string, string>]> = [
    ['a torn tail', { '': `${header}1\n2\n{"n":` }],
    [
      'a torn tail and evidence of an earlier torn tail with the same number',
      { '': `${header}1\n2\n{"n":`, '.torn-3': 'other' },
    ],
    ['a torn tail and half-made evidence', { '': `${header}1\n2\n{"n":`, '.torn-3.tmp': '{"' }],
    ['padding', { '': `${header}1\n2\n${'\0'.repeat(40)}` }],
    ['a torn tail inside padding', { '': `${header}1\n2\n{"n\0\0:1}\n${'\0'.repeat(40)}` }],
    ['half a header', { '': header.slice(0, 20), '.next': header }],
    ['no active segment', { '.001': `${header}1\n2\n`, '.next': '', '.seal.tmp': 'bytes=' }],
  ]

  test.each(torn)(
    '%s: the journal recovers from every crash inside it, and from a crash inside that recovery',
    async (name, content) => {
      const files = new SimulatedFileSystem()
      for (const [ending, text] of Object.entries(content)) files.writeFile(journalPath + ending, text)
      const isHeaderOnly = name === 'half a header'
      const expected: ExpectedJournal = {
        issued: isHeaderOnly ? [] : ['1', '2'],
        acknowledged: isHeaderOnly ? 0 : 2,
        floor: { lowest: 1, highest: 1 },
        isManyLines: false,
      }
      // A separate harness: a shared one would know some of these states and not crash them again.
      const own = new CrashHarness<ExpectedJournal, FoundJournal>(oracle)
      await own.run(
        { name, expected: () => expected, run: (state) => oracle.recover(state) },
        { seed: 7, limit: 1000, insideEvery: 1, nesting },
        files,
      )
      expect(own.counts.recoveries[0]).toBeGreaterThan(0)
    },
    scaled(120_000, 600_000),
  )
})

afterAll(() => {
  const { moments, judged, distinct, reopened, killed, recoveries } = harness.counts
  console.log(
    `crash states, scripted: ${moments} moments, ${judged} states judged, ${distinct} of them distinct and opened ` +
      `(${reopened} again), ${killed} kills, ${recoveries.join(' + ')} recoveries crashed inside, ` +
      `${OrderMonitor.operations} operations held to their order, ${OrderMonitor.repeated} of them known from an ` +
      `equal opening; ${oracle.toleratedDamage} times damage was accepted where a ` +
      'write of many lines lost its beginning',
  )
})

describe('a journal whose process is killed repeatedly', () => {
  // The first kill hits a rotation whose first rename is visible but not durable. The second kill
  // hits the recovery after it removed `.next`, which is not durable either. Then the power fails
  // in the second recovery. Its rename must not reach the disk without the first one.
  test('killed in a rotation and then in recovery, survives a power failure in the next recovery', async () => {
    const model = new JournalModel()
    const files = new SimulatedFileSystem()
    const store = await model.open(files)
    for (let n = 1; n <= 3; n++) await model.append(store, n)
    const inRotation = await killedAt(files, journalPath + '.001', 'syncDirectory', () => model.rotate(store))
    const inRecovery = await killedAt(inRotation, undefined, 'syncDirectory', () => oracle.recover(inRotation), 'unlink')
    const expected = { ...model.expected(), acknowledged: 3 }
    // This recovery has no order monitor, which would fail first: the states themselves must show
    // the defect.
    const recover = async (state: SimulatedFileSystem): Promise<void> => {
      const recovered = await MiniStore.open(journalPath, { fileSystem: state })
      await recovered.close()
    }
    const name = 'recovery after two kills'
    const run = new CrashHarness(oracle).run(
      { name, expected: () => expected, run: recover },
      { seed: 1, limit: 1000, nesting: 0 },
      inRecovery,
    )
    await expect(run).resolves.toBeUndefined()
  })
})

/**
 * Runs a task to its end. Returns the system as it was when its process was killed before an
 * operation.
 */
async function killedAt(
  files: SimulatedFileSystem,
  visible: string | undefined,
  before: string,
  task: () => Promise<void>,
  after?: string,
): Promise<SimulatedFileSystem> {
  let killed: SimulatedFileSystem | undefined
  let last = ''
  const stop = files.onOperation(({ operation }) => {
    const isThen = operation === before && (after === undefined || last === after)
    if (isThen && (visible === undefined || files.exists(visible))) killed ??= files.afterKill()
    last = operation
  })
  await task()
  stop()
  if (killed === undefined) throw new Error(`There was no ${before} to be killed before`)
  return killed
}

describe('the suite', () => {
  test(`opens at least ${floor} distinct states, and accepts damage in few`, () => {
    expect(harness.counts.distinct).toBeGreaterThan(floor)
    expect(harness.counts.recoveries[0]).toBeGreaterThan(300)
    if (isFullCrashSuite) expect(harness.counts.recoveries[1]).toBeGreaterThan(1000)
    expect(OrderMonitor.operations).toBeGreaterThan(50 * floor)
    expect(oracle.toleratedDamage).toBeLessThan(harness.counts.judged / 50)
  })

  test.each(['dataSync', 'sync', 'syncDirectory'] as const)('detects a %s that does nothing', async (lie) => {
    const files = new SimulatedFileSystem()
    if (lie === 'syncDirectory') files.syncDirectory = () => Promise.resolve()
    else {
      const open = files.open.bind(files)
      files.open = async (path, mode) => {
        const file = await open(path, mode)
        // The sync of a directory is `syncDirectory`.
        return mode === 'directory' ? file : Object.assign(file, { [lie]: () => Promise.resolve() })
      }
    }
    const deaf = journalWorkload(`a disk that is deaf to ${lie}`, async (model) => {
      const store = await model.open(files)
      await model.append(store, 1)
      await model.rotate(store)
      await model.append(store, 2)
      await store.close()
    })
    await expect(new CrashHarness(new JournalOracle()).run(deaf, { seed: 1, limit: 60 }, files)).rejects.toThrow(
      CrashFinding,
    )
  })

  test('the oracle can fail: it finds a lost record, a phantom record and a wrong record', async () => {
    const claims = (issued: string[], acknowledged: number): Workload<ExpectedJournal> => ({
      name: 'claims',
      expected: () => ({ issued, acknowledged, floor: { lowest: 1, highest: 1 }, isManyLines: false }),
      run: (files) => oracle.recover(files),
    })
    const written = new SimulatedFileSystem()
    written.writeFile(journalPath, '// MINISTORE JOURNAL v0.3.0 seq=1 id=5c1e9a70b2f4d833\n1\n2\n')
    const run = (issued: string[], acknowledged: number): Promise<void> =>
      new CrashHarness(oracle).run(claims(issued, acknowledged), { seed: 1, limit: 10 }, written.afterKill())
    await expect(run(['1', '2'], 2)).resolves.toBeUndefined()
    await expect(run(['1', '2', '3'], 3)).rejects.toThrow(CrashFinding)
    await expect(run(['1'], 1)).rejects.toThrow(CrashFinding)
    await expect(run(['1', '3'], 2)).rejects.toThrow(CrashFinding)
  })
})
