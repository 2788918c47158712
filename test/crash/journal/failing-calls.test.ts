import '../../support/fixed-identity.ts'

import { afterAll, describe, expect, test } from 'vitest'

import { groupCommit, type MiniStore, MiniStoreError, type MiniStoreErrorCode } from '../../../src/index.ts'
import { type Fault, type Operation, SimulatedFileSystem } from '../../../src/testing/index.ts'
import { scaled } from '../../support/crash-scale.ts'
import { causes, failing, type FaultKind, needsRoom } from '../faults.ts'
import { CrashHarness, keyOf } from '../harness.ts'
import { type ExpectedJournal, JournalModel } from './model.ts'
import { type FoundJournal, JournalOracle } from './oracle.ts'

const oracle = new JournalOracle()
const harness = new CrashHarness<ExpectedJournal, FoundJournal>(oracle)
const codes = new Map<string, number>()
let faultyRuns = 0
let nestedRuns = 0

const isAny = (): boolean => true
/** Opening the lock file needs room too. */
const makesFile = (operation: Operation): boolean =>
  needsRoom(operation) || (operation.operation === 'open' && operation.mode === 'ensure')

const kinds: readonly FaultKind[] = [
  failing('one operation', 'EIO', false, isAny),
  failing('one operation', 'EIO', true, isAny),
  failing('one sync', 'EIO', false, ({ operation }) => /sync/i.test(operation)),
  failing('one growing call', 'ENOSPC', false, makesFile),
  failing('one growing call', 'ENOSPC', true, makesFile),
  failing('one growing call', 'EDQUOT', false, makesFile),
  failing('one growing call', 'EDQUOT', true, makesFile),
  failing('one write', 'EFBIG', false, ({ operation }) => operation === 'write'),
  failing('one write', 'EFBIG', true, ({ operation }) => operation === 'write'),
  {
    name: 'one write is short',
    code: undefined,
    strike: (files, nth) => files.shortWriteOn({ nth: nth + 1, bytes: 2 }),
  },
  {
    name: 'all writes are short',
    code: undefined,
    strike: (files, nth) => files.shortWriteOn({ nth: nth + 1, bytes: 5, times: 'always' }),
  },
  {
    name: 'one write is short, and the next fails with ENOSPC',
    code: 'ENOSPC',
    strike: (files, nth) => files.failOn({ operation: 'write', nth: nth + 1 }, 'ENOSPC', { bytesFirst: 3 }),
  },
  {
    name: 'one write ends for want of space, and the sync of its cut fails',
    code: 'ENOSPC',
    strike: (files, nth) => {
      const full = files.failOn({ operation: 'write', nth: nth + 1 }, 'ENOSPC', { bytesFirst: 20 })
      const unsynced = files.failOn(
        ({ operation }) => operation === 'sync' && full.hits > 1 && unsynced.hits === 0,
        'ENOSPC',
      )
      return {
        get hits() {
          return full.hits + unsynced.hits
        },
        remove: () => [full, unsynced].forEach((fault) => fault.remove()),
      }
    },
  },
  {
    name: 'one sync of a file and the next one fail with EIO',
    code: 'EIO',
    strike: (files, nth) => {
      let syncs = 0
      return files.failOn(({ operation }) => /^(?:dataS|s)ync$/.test(operation) && [nth + 1, nth + 2].includes(++syncs), 'EIO')
    },
  },
]

type Doing = 'open' | 'write' | 'change' | 'close'

const allowed: Readonly<Record<Doing, readonly MiniStoreErrorCode[]>> = {
  open: ['ERR_MINISTORE_IO', 'ERR_MINISTORE_LOCK_UNAVAILABLE'],
  write: ['ERR_MINISTORE_IO', 'ERR_MINISTORE_OUTCOME_UNKNOWN', 'ERR_MINISTORE_POISONED'],
  change: ['ERR_MINISTORE_IO', 'ERR_MINISTORE_POISONED'],
  close: ['ERR_MINISTORE_IO'],
}

/**
 * A process that continues as well as it can. If its store is poisoned, it closes the store and
 * opens the journal again.
 */
class Process {
  readonly #model: JournalModel
  readonly #files: SimulatedFileSystem
  readonly #code: string | undefined
  failures = 0

  constructor(model: JournalModel, files: SimulatedFileSystem, code: string | undefined) {
    this.#model = model
    this.#files = files
    this.#code = code
  }

  async live(): Promise<void> {
    for (const preallocate of [undefined, 50]) await this.session(preallocate)
  }

  /** One session of a life. `live` runs two. */
  async session(preallocate?: number): Promise<void> {
    const store = await this.#attempt('open', () =>
      this.#model.open(this.#files, { maxBytesPerSegment: 90, maxSegments: 3, preallocate }),
    )
    if (store === undefined) return
    await this.#use(store)
    await this.#attempt('close', () => store.close())
  }

  async recover(): Promise<void> {
    const store = await this.#attempt('open', () => this.#model.open(this.#files))
    if (store === undefined) return
    await this.#attempt('write', () => this.#model.append(store, 'after recovery'))
    await this.#attempt('close', () => store.close())
  }

  async #use(store: MiniStore): Promise<void> {
    const model = this.#model
    const next = (): number => model.acknowledged + 1
    await this.#attempt('write', () => model.append(store, { n: next() }))
    // Together longer than the first record of the next session, so bytes that a lost cut brings
    // back show behind that record.
    await this.#attempt('write', () => model.appendAll(store, [{ a: next() }, { b: next() }, { c: next() }]))
    await this.#attempt('change', () => model.rotate(store))
    const both = [model.append(store, { c: next() }), model.append(store, { d: next() })]
    await Promise.all(both.map((append) => this.#attempt('write', () => append)))
    const group = groupCommit(store, { maxRecords: 2 })
    const three = [{ e: next() }, { f: next() }, { g: next() }].map((record) => model.appendInGroup(store, group, record))
    await Promise.all(three.map((append) => this.#attempt('write', () => append)))
    await this.#attempt('change', () => model.truncateBefore(store, Math.max(1, model.acknowledged - 3)))
  }

  async #attempt<T>(doing: Doing, task: () => Promise<T>): Promise<T | undefined> {
    try {
      return await task()
    } catch (error) {
      this.failures += 1
      // The model's own failures are plain errors and must come through.
      if (!(error instanceof MiniStoreError) || !allowed[doing].includes(error.code)) throw error
      if (!causes(error).includes(this.#code)) throw error
      codes.set(error.code, (codes.get(error.code) ?? 0) + 1)
      return undefined
    }
  }
}

/**
 * Runs once with the fault at the nth operation. Afterwards the fault is gone and the journal is
 * used again.
 */
async function runWithFault(
  kind: FaultKind,
  nth: number,
): Promise<{ readonly hits: number; readonly failures: number }> {
  const files = new SimulatedFileSystem()
  const model = new JournalModel()
  const fault = kind.strike(files, nth)
  const user = new Process(model, files, kind.code)
  let since = 0
  const isTaken = (): boolean => {
    if (fault.hits === 0) return false
    // Takes all of the first moments after the fault, then a few. Later moments only add states of
    // a run without a fault.
    since += 1
    return since <= 12 || since % 6 === 0
  }
  await harness.run(
    {
      name: `${kind.name}: ${nth}`,
      expected: model.expected,
      run: async () => {
        await user.live()
        files.clearFaults()
        const store = await model.open(files)
        await model.append(store, 'after the fault')
        await store.close()
      },
    },
    {
      seed: nth + 1,
      limit: 6,
      insideEvery: 50,
      isTaken,
      epoch: () => fault.hits,
    },
    files,
  )
  return { hits: fault.hits, failures: user.failures }
}

describe('a failing call loses nothing that was acknowledged, and reports the outcome', () => {
  test.each(kinds)(
    '$name',
    async (kind) => {
      const findings: string[] = []
      let runs = 0
      for (; ; runs++) {
        try {
          const { hits, failures } = await runWithFault(kind, runs)
          if (hits === 0) break
          // Short writes are continued, so they are not failures.
          if (kind.code === undefined) expect(failures).toBe(0)
        } catch (error) {
          findings.push(String(error))
        }
        if (runs > 1000) throw new Error('The run never came to its end without a fault')
      }
      faultyRuns += runs
      // Reports one finding of each kind, since a single cause shows in many runs.
      const distinct = new Map(
        findings.map((finding) => [finding.replace(/^.*seed.*\n/, '').split('\n')[0], finding]),
      )
      expect([...distinct.values()], `${findings.length} of ${runs} runs failed`).toEqual([])
      expect(runs).toBeGreaterThan(15)
    },
    240_000,
  )
})

/** What one failed run has left, and what the disks held that recoveries from it have left. */
interface Left {
  readonly model: JournalModel
  readonly files: SimulatedFileSystem
  /** By a text that is equal only for equal disks. Most calls that fail leave the same ones. */
  readonly found: Map<string, FoundJournal>
}

/** Opens once, appends once and closes, each as far as possible. */
async function recoverWithFault(kind: FaultKind, nth: number, { model: known, files: left, found }: Left): Promise<number> {
  const files = left.afterKill()
  const model = known.fork()
  const fault = kind.strike(files, nth)
  const changes = noteChanges(files, fault)
  const judge = async (state: SimulatedFileSystem, key: string): Promise<void> => {
    const held = found.get(key) ?? (await oracle.find(state))
    found.set(key, held)
    oracle.check(held, model.expected(), { isHarsh: false })
  }
  await new Process(model, files, kind.code).recover()
  // Equal names and bytes are an equal disk only if nothing is pending. With the system running,
  // only the same changes leave the same disk.
  await judge(files.afterKill(), changes())
  for (const keep of ['none', 'all'] as const) {
    const state = files.afterCrash({ keep })
    await judge(state, keyOf(state))
  }
  if (fault.hits === 0) return 0
  // The same system keeps running. Nothing that the failures left may get in the way of what it
  // appends now.
  files.clearFaults()
  const again = new Process(model, files, kind.code)
  await again.recover()
  expect(again.failures).toBe(0)
  for (const state of files.crashStates({ seed: nth + 1, limit: 8, tornVariants: [] })) await judge(state, keyOf(state))
  return fault.hits
}

/**
 * Notes every operation that changes the disk, and whether the fault hit it. Two copies of one disk
 * with the same notes are equal, down to what is pending and what a failed sync has lost.
 */
function noteChanges(files: SimulatedFileSystem, fault: Fault): () => string {
  let changes = 'changes'
  let [isChange, hits] = [false, 0]
  const noteHit = (): void => {
    if (isChange && fault.hits > hits) changes += ', hit'
    hits = fault.hits
  }
  files.onOperation(({ operation, path, to, position, length, bytes, changesDisk }) => {
    noteHit()
    isChange = changesDisk
    if (changesDisk) changes += `\n${[operation, path, to, position, length].join(' ')}: ${bytes?.join() ?? ''}`
  })
  return () => {
    noteHit()
    return changes
  }
}

describe('a failing call during recovery from a failing call loses nothing either', () => {
  // The ordinary suite takes every twelfth call of the run as the first to fail, and every call of
  // the recovery.
  const stride = scaled(12, 1)
  test.each(kinds)('$name', { timeout: scaled(120_000, 1_200_000) }, async (kind) => {
    const before = nestedRuns
    for (let nth = 0; ; nth += stride) {
      const files = new SimulatedFileSystem()
      const model = new JournalModel()
      const fault = kind.strike(files, nth)
      await new Process(model, files, kind.code).session()
      if (fault.hits === 0) break
      // Either the system keeps running, or the power fails too and only what is durable is left.
      for (const left of [files.afterKill(), files.afterCrash({ keep: 'none' })]) {
        const found = new Map<string, FoundJournal>()
        for (let inner = 0; ; inner++) {
          let hits = 0
          try {
            hits = await recoverWithFault(kind, inner, { model, files: left, found })
          } catch (error) {
            throw new Error(`${kind.name}: call ${nth} of the run, then call ${inner} of recovery: ${String(error)}`, {
              cause: error,
            })
          }
          if (hits === 0) break
          nestedRuns += 1
        }
      }
    }
    expect(nestedRuns - before).toBeGreaterThan(kind.code === undefined ? 3 : 5)
  })
})

afterAll(() => {
  const { moments, judged, distinct } = harness.counts
  const seen = [...codes].map(([code, count]) => `${count} ${code}`).join(', ')
  console.log(
    `failing calls: ${faultyRuns} runs with a fault, ${nestedRuns} with another one in recovery, ${moments} moments, ${judged} states judged, ${distinct} distinct; ` +
      seen,
  )
})

test('the suite has at least its expected size', () => {
  expect(faultyRuns).toBeGreaterThan(500)
  expect(nestedRuns).toBeGreaterThan(scaled(500, 6000))
  expect([...codes.keys()].toSorted()).toEqual([
    'ERR_MINISTORE_IO',
    'ERR_MINISTORE_LOCK_UNAVAILABLE',
    'ERR_MINISTORE_OUTCOME_UNKNOWN',
    'ERR_MINISTORE_POISONED',
  ])
})
