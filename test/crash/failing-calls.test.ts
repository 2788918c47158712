import { afterAll, describe, expect, test } from 'vitest'

import { type MiniStore, MiniStoreError, type MiniStoreErrorCode } from '../../src/index.ts'
import { type Fault, type Operation, SimulatedFileSystem } from '../../src/testing/index.ts'
import {
  CrashHarness,
  type ExpectedJournal,
  type FoundJournal,
  JournalModel,
  JournalOracle,
} from './harness.ts'

const oracle = new JournalOracle()
const harness = new CrashHarness<ExpectedJournal, FoundJournal>(oracle)
const codes = new Map<string, number>()
let faultyRuns = 0

/** How the nth operation, counted from 0, and perhaps all after it, go wrong. */
interface Kind {
  readonly name: string
  readonly isPersistent: boolean
  /** The code of the system's error; undefined when no call fails. */
  readonly code: string | undefined
  strike(files: SimulatedFileSystem, nth: number): Fault
}

function failing(
  name: string,
  code: 'EIO' | 'ENOSPC' | 'EDQUOT',
  isPersistent: boolean,
  only: (operation: Operation) => boolean,
): Kind {
  return {
    name: `${name}${isPersistent ? ', and all after it,' : ''} fails with ${code}`,
    isPersistent,
    // The simulated EDQUOT has no name, as on Node 20.
    code: code === 'EDQUOT' ? 'Unknown system error -122' : code,
    strike: (files, nth) => {
      let fitting = 0
      return files.failOn((operation) => {
        if (!only(operation)) return false
        fitting += 1
        return isPersistent ? fitting > nth : fitting === nth + 1
      }, code)
    },
  }
}

const isAny = (): boolean => true
/** What needs room on the disk. */
const needsRoom = ({ operation, mode }: Operation): boolean =>
  operation === 'write' ||
  operation === 'makeDirectory' ||
  (operation === 'open' && (mode === 'create' || mode === 'ensure'))

const kinds: readonly Kind[] = [
  failing('one operation', 'EIO', false, isAny),
  failing('one operation', 'EIO', true, isAny),
  failing('one sync', 'EIO', false, ({ operation }) => /sync/i.test(operation)),
  failing('one growing call', 'ENOSPC', false, needsRoom),
  failing('one growing call', 'ENOSPC', true, needsRoom),
  failing('one growing call', 'EDQUOT', false, needsRoom),
  {
    name: 'one write is short',
    isPersistent: false,
    code: undefined,
    strike: (files, nth) => files.shortWriteOn({ nth: nth + 1, bytes: 2 }),
  },
  {
    name: 'all writes are short',
    isPersistent: true,
    code: undefined,
    strike: (files, nth) => files.shortWriteOn({ nth: nth + 1, bytes: 5, times: 'always' }),
  },
  {
    name: 'one write is short, and the next fails with ENOSPC',
    isPersistent: false,
    code: 'ENOSPC',
    strike: (files, nth) => files.failOn({ operation: 'write', nth: nth + 1 }, 'ENOSPC', { bytesFirst: 3 }),
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
 * A process that goes on as well as it can: when its store is poisoned it closes it and opens the
 * journal anew.
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
    for (let session = 0; session < 2; session++) {
      const opened = await this.#attempt('open', () =>
        this.#model.open(this.#files, { maxBytesPerSegment: 70, maxSegments: 3 }),
      )
      if (opened === undefined) continue
      await this.#use(opened)
      await this.#attempt('close', () => opened.close())
    }
  }

  async #use(store: MiniStore): Promise<void> {
    const model = this.#model
    const next = (): number => model.acknowledged + 1
    await this.#attempt('write', () => model.append(store, { n: next() }))
    await this.#attempt('write', () => model.appendAll(store, [{ a: next() }, { b: next() }]))
    await this.#attempt('change', () => model.rotate(store))
    const both = [model.append(store, { c: next() }), model.append(store, { d: next() })]
    await Promise.all(both.map((append) => this.#attempt('write', () => append)))
    await this.#attempt('change', () => model.truncateBefore(store, Math.max(1, model.acknowledged - 3)))
  }

  async #attempt<T>(doing: Doing, task: () => Promise<T>): Promise<T | undefined> {
    try {
      return await task()
    } catch (error) {
      this.failures += 1
      // The model's own claims are plain errors and must come through.
      if (!(error instanceof MiniStoreError) || !allowed[doing].includes(error.code)) throw error
      if (!causes(error).includes(this.#code)) throw error
      codes.set(error.code, (codes.get(error.code) ?? 0) + 1)
      return undefined
    }
  }
}

/** The system's codes below an error. */
function causes(error: Error): unknown[] {
  const found: unknown[] = []
  for (let at: unknown = error; at instanceof Error; at = at.cause)
    found.push('code' in at ? at.code : undefined)
  return found
}

/**
 * One run with the fault at the nth operation; afterwards the fault is gone and the journal is used
 * again.
 */
async function runWithFault(
  kind: Kind,
  nth: number,
): Promise<{ readonly hits: number; readonly failures: number }> {
  const files = new SimulatedFileSystem()
  const model = new JournalModel()
  const fault = kind.strike(files, nth)
  const user = new Process(model, files, kind.code)
  let since = 0
  const isTaken = (): boolean => {
    if (fault.hits === 0) return false
    // All of the first moments after the fault, then a few: what they add are states of a run without a
    // fault.
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

describe('a failing call loses nothing that was acknowledged, and says what it did', () => {
  test.each(kinds)(
    '$name',
    async (kind) => {
      const findings: string[] = []
      let runs = 0
      for (; ; runs++) {
        try {
          const { hits, failures } = await runWithFault(kind, runs)
          if (hits === 0) break
          // Short writes are continued, so they are no failure.
          if (kind.code === undefined) expect(failures).toBe(0)
        } catch (error) {
          findings.push(String(error))
        }
        if (runs > 1000) throw new Error('The run never came to its end without a fault')
      }
      faultyRuns += runs
      // One of each kind: a single cause shows in many runs.
      const distinct = new Map(
        findings.map((finding) => [finding.replace(/^.*seed.*\n/, '').split('\n')[0], finding]),
      )
      expect([...distinct.values()], `${findings.length} of ${runs} runs failed`).toEqual([])
      expect(runs).toBeGreaterThan(15)
    },
    240_000,
  )
})

afterAll(() => {
  const { moments, judged, distinct } = harness.counts
  const seen = [...codes].map(([code, count]) => `${count} ${code}`).join(', ')
  console.log(
    `failing calls: ${faultyRuns} runs with a fault, ${moments} moments, ${judged} states judged, ${distinct} distinct; ` +
      seen,
  )
})
