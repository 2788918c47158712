import { type MiniStore, MiniStoreError } from '../../../src/index.ts'
import type { Fault, Operation, SimulatedFileSystem } from '../../../src/testing/index.ts'
import { JournalModel } from '../journal/model.ts'
import type { Check, CheckContext } from './checks.ts'

/** Sets the fault at the nth matching call, counted from 0. */
type Strike = (files: SimulatedFileSystem, nth: number) => Fault

/** More calls than a run makes. */
const mostRuns = 1000

export const faultChecks: readonly Check[] = [
  faultCheck('one sync fails', strikeAt(({ operation }) => /sync/i.test(operation), 'EIO')),
  faultCheck('one read fails', strikeAt(({ operation }) => operation === 'read', 'EIO')),
  faultCheck(
    'one call that changes names fails',
    strikeAt(({ operation }) => operation === 'rename' || operation === 'unlink', 'EIO'),
  ),
  faultCheck('one write is short', (files, nth) => files.shortWriteOn({ nth: nth + 1, bytes: 2 })),
  faultCheck('one write ends for want of space', (files, nth) =>
    files.failOn({ operation: 'write', nth: nth + 1 }, 'ENOSPC', { bytesFirst: 3 }),
  ),
  faultCheck('one write ends for want of space behind its first line', (files, nth) =>
    files.failOn({ operation: 'write', nth: nth + 1 }, 'ENOSPC', { bytesFirst: 10 }),
  ),
  faultCheck('one write ends for want of space, and the sync of its cut fails', (files, nth) => {
    const full = files.failOn({ operation: 'write', nth: nth + 1 }, 'ENOSPC', { bytesFirst: 18 })
    const unsynced = files.failOn(({ operation }) => operation === 'sync' && full.hits > 1 && unsynced.hits === 0, 'EIO')
    return full
  }),
]

function strikeAt(fits: (operation: Operation) => boolean, code: 'EIO'): Strike {
  return (files, nth) => {
    let fitting = 0
    return files.failOn((operation) => fits(operation) && ++fitting === nth + 1, code)
  }
}

/** One run for every call that the fault can hit, crashed at moments from the fault on. */
function faultCheck(name: string, strike: Strike): Check {
  return [
    name,
    async (context) => {
      for (let nth = 0; await runWithFault(context, { name, strike, nth }); nth++) {
        if (nth > mostRuns) throw new Error('The runs never came to an end without a fault')
      }
    },
  ]
}

/** Runs with the fault. Returns whether the fault was hit. */
async function runWithFault(
  { harness, newFiles }: CheckContext,
  { name, strike, nth }: { readonly name: string; readonly strike: Strike; readonly nth: number },
): Promise<boolean> {
  const files = newFiles()
  const model = new JournalModel()
  const fault = strike(files, nth)
  let since = 0
  const isTaken = (): boolean => {
    if (fault.hits === 0) return false
    // Right after the fault, most of what it leaves can still be lost. Later on a few moments
    // suffice.
    since += 1
    return since <= 8 || since % 8 === 0
  }
  const run = async (): Promise<void> => {
    for (let session = 0; session < 2; session++) await live(model, files)
    files.clearFaults()
    const store = await model.open(files)
    await model.append(store, 'after')
    await store.close()
  }
  const workload = { name: `${name}: ${nth}`, expected: model.expected, run }
  const options = { seed: nth + 1, limit: 6, insideEvery: 50, isTaken, epoch: () => fault.hits }
  await harness.run(workload, options, files)
  return fault.hits > 0
}

/** A process that keeps using its journal whatever is refused. */
async function live(model: JournalModel, files: SimulatedFileSystem): Promise<void> {
  const store = await attempt(() => model.open(files, { maxBytesPerSegment: 95, maxSegments: 3 }))
  if (store === undefined) return
  await use(model, store)
  await attempt(() => store.close())
}

async function use(model: JournalModel, store: MiniStore): Promise<void> {
  await attempt(() => model.append(store, { first: model.acknowledged }))
  await attempt(() => model.appendAll(store, [{ n: model.acknowledged }, { n: 'long' }]))
  await attempt(() => model.rotate(store))
  const both = [model.append(store, { c: 1 }), model.append(store, { d: 2 })]
  await Promise.all(both.map((append) => attempt(() => append)))
  await attempt(() => model.truncateBefore(store, Math.max(1, model.acknowledged - 3)))
  // Together longer than the first record of the next session, so bytes that a lost cut brings back
  // show behind that record.
  await attempt(() => model.appendAll(store, ['v', 'w', 'x', 'y', 'z']))
}

/**
 * Returns undefined if the store refused. The model's own failures are plain errors and come
 * through.
 */
async function attempt<T>(task: () => Promise<T>): Promise<T | undefined> {
  try {
    return await task()
  } catch (error) {
    const isRefusal = error instanceof MiniStoreError && refusals.has(error.code)
    if (!isRefusal) throw error
    return undefined
  }
}

const refusals: ReadonlySet<string> = new Set([
  'ERR_MINISTORE_IO',
  'ERR_MINISTORE_OUTCOME_UNKNOWN',
  'ERR_MINISTORE_POISONED',
])
