import '../../support/fixed-identity.ts'

import { afterAll, describe, expect, test } from 'vitest'

import { MiniStoreError, type MiniStoreErrorCode } from '../../../src/index.ts'
import { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { scaled } from '../../support/crash-scale.ts'
import { failing, type FaultKind, needsRoom } from '../faults.ts'
import { CrashHarness } from '../harness.ts'
import { capture, type ExpectedState, type LogManager, type LogOptions, StateModel } from './model.ts'
import { type FoundState, StateOracle } from './oracle.ts'

const harness = new CrashHarness<ExpectedState, FoundState>(new StateOracle())
const codes = new Map<string, number>()
let faultyRuns = 0

const kinds: readonly FaultKind[] = [
  failing('one operation', 'EIO', false, () => true),
  failing('one operation', 'EIO', true, () => true),
  failing('one sync', 'EIO', false, ({ operation }) => /sync/i.test(operation)),
  failing('one growing call', 'ENOSPC', false, needsRoom),
  failing('one growing call', 'ENOSPC', true, needsRoom),
  {
    name: 'one write is short',
    code: undefined,
    strike: (files, nth) => files.shortWriteOn({ nth: nth + 1, bytes: 2 }),
  },
  {
    name: 'one write is short, and the next fails with ENOSPC',
    code: 'ENOSPC',
    strike: (files, nth) => files.failOn({ operation: 'write', nth: nth + 1 }, 'ENOSPC', { bytesFirst: 3 }),
  },
]

type Doing = 'open' | 'apply' | 'snapshot' | 'read' | 'close'

const allowed: Readonly<Record<Doing, readonly MiniStoreErrorCode[]>> = {
  open: ['ERR_MINISTORE_IO', 'ERR_MINISTORE_LOCK_UNAVAILABLE'],
  apply: ['ERR_MINISTORE_IO', 'ERR_MINISTORE_OUTCOME_UNKNOWN', 'ERR_MINISTORE_POISONED'],
  snapshot: ['ERR_MINISTORE_IO', 'ERR_MINISTORE_OUTCOME_UNKNOWN', 'ERR_MINISTORE_POISONED'],
  read: ['ERR_MINISTORE_IO', 'ERR_MINISTORE_POISONED'],
  close: ['ERR_MINISTORE_IO'],
}

/** A process that continues as well as it can. */
class Process {
  readonly #model: StateModel
  readonly #files: SimulatedFileSystem
  failures = 0

  constructor(model: StateModel, files: SimulatedFileSystem) {
    this.#model = model
    this.#files = files
  }

  async live(): Promise<void> {
    const onError = (error: unknown): void => this.#count('snapshot', error)
    await this.#session({ snapshots: { keep: 2 } })
    await this.#session({ snapshots: { keep: 1, everyMutations: 2, onError } })
    await this.#session({ snapshots: { keep: 2, everyMutations: 3, onError }, capture })
  }

  async #session(given: LogOptions): Promise<void> {
    const model = this.#model
    const files = this.#files
    const options = { journal: { maxBytesPerSegment: 95 }, ...given }
    const manager = await this.#attempt('open', () => model.open(files, options))
    if (manager === undefined) return
    const attempt = async (doing: Doing, task: () => Promise<unknown>): Promise<void> => {
      await this.#attempt(doing, task)
      // Whatever failed, memory shows exactly what was acknowledged.
      model.assertState(manager)
    }
    await attempt('apply', () => model.apply(files, manager))
    await attempt('snapshot', () => model.compact(files, manager))
    const both = [model.apply(files, manager), model.apply(files, manager)]
    await Promise.all(both.map((apply) => this.#attempt('apply', () => apply)))
    const others = [model.compact(files, manager), model.apply(files, manager), model.createSnapshot(files, manager)]
    const applied = others[1]
    await Promise.all(others.map((call) => this.#attempt(call === applied ? 'apply' : 'snapshot', () => call)))
    model.assertState(manager)
    await attempt('apply', () => model.applyAll(files, manager, 3))
    await attempt('apply', () => model.apply(files, manager))
    await attempt('snapshot', () => model.compact(files, manager))
    await attempt('read', () => this.#readBack(manager))
    await attempt('close', () => manager.close())
  }

  async #readBack(manager: LogManager): Promise<void> {
    const { log } = await manager.stateAt(manager.sequence)
    if (log.join() !== manager.state.log.join()) throw new Error(`The last past state is ${log.join()}`)
  }

  async #attempt<T>(doing: Doing, task: () => Promise<T>): Promise<T | undefined> {
    try {
      return await task()
    } catch (error) {
      this.#count(doing, error)
      return undefined
    }
  }

  #count(doing: Doing, error: unknown): void {
    this.failures += 1
    // The model's own failures are plain errors and must come through.
    if (!(error instanceof MiniStoreError) || !allowed[doing].includes(error.code)) throw error
    codes.set(error.code, (codes.get(error.code) ?? 0) + 1)
  }
}

/**
 * Runs once with the fault at the nth call. Afterwards the fault is gone and the state is used
 * again.
 */
async function runWithFault(kind: FaultKind, nth: number): Promise<number> {
  const files = new SimulatedFileSystem()
  const model = new StateModel()
  const fault = kind.strike(files, nth)
  const user = new Process(model, files)
  let since = 0
  const isTaken = (): boolean => {
    if (fault.hits === 0) return false
    // Takes the first moments after the fault, then a few. Later moments only add states of a run
    // without a fault.
    since += 1
    return since <= 6 || since % 12 === 0
  }
  const run = async (): Promise<void> => {
    await user.live()
    files.clearFaults()
    const manager = await model.open(files)
    await model.apply(files, manager)
    await model.compact(files, manager)
    model.assertState(manager)
    await manager.close()
  }
  await harness.run(
    { name: `${kind.name}: ${nth}`, expected: model.expected, run },
    { seed: nth + 1, limit: 3, insideEvery: 50, isTaken, epoch: () => fault.hits },
    files,
  )
  // Short writes are continued, so they are not failures.
  if (kind.code === undefined) expect(user.failures).toBe(0)
  return fault.hits
}

describe('a failing call loses nothing that was acknowledged, and leaves memory unchanged', () => {
  // The ordinary suite takes every fifth call. Each kind starts at a different one.
  const stride = scaled(5, 1)
  test.each(kinds.map((kind, index) => ({ kind, index, name: kind.name })))(
    '$name',
    { timeout: scaled(300_000, 1_200_000) },
    async ({ kind, index }) => {
      let runs = 0
      for (let nth = index % stride; (await runWithFault(kind, nth)) > 0; nth += stride) runs += 1
      faultyRuns += runs
      expect(runs).toBeGreaterThan(3)
    },
  )
})

afterAll(() => {
  const { moments, judged, distinct } = harness.counts
  const seen = [...codes].map(([code, count]) => `${count} ${code}`).join(', ')
  console.log(
    `failing calls under a state: ${faultyRuns} runs with a fault, ${moments} moments, ${judged} states judged, ` +
      `${distinct} distinct; ${seen}`,
  )
})

test('the suite has at least its expected size', () => {
  expect(faultyRuns).toBeGreaterThan(scaled(120, 700))
  expect([...codes.keys()]).toEqual(
    expect.arrayContaining(['ERR_MINISTORE_IO', 'ERR_MINISTORE_OUTCOME_UNKNOWN', 'ERR_MINISTORE_POISONED']),
  )
})
