import type { SimulatedFileSystem, TornVariant } from '../../../src/testing/index.ts'
import { createRandom, type Random } from '../../../src/testing/random.ts'
import type { CrashHarness, Workload } from '../harness.ts'
import {
  capture, type ExpectedState, type LogManager, type LogOptions, type StateModel, stateWorkload,
} from './model.ts'
import type { FoundState } from './oracle.ts'

/** One workload for each kind of operation of a state manager. */
export function scriptedStateWorkloads(): Array<Workload<ExpectedState>> {
  return [
    stateWorkload('made, applied to, closed, opened again', async (model, files) => {
      const manager = await model.open(files)
      await applyEach(model, files, manager, 3)
      await model.refuse(manager)
      await manager.close()
      const again = await model.open(files)
      await applyEach(model, files, again, 2)
      await again.close()
    }),
    stateWorkload('snapshots of which two are kept, and mutations after them', async (model, files) => {
      const manager = await model.open(files)
      await model.createSnapshot(files, manager)
      for (let round = 0; round < 3; round++) {
        await applyEach(model, files, manager, 2)
        await model.createSnapshot(files, manager)
        await model.createSnapshot(files, manager)
      }
      await applyEach(model, files, manager, 1)
      await manager.close()
      await (await model.open(files)).close()
    }),
    ...[1, 2, 3].map((keep) =>
      stateWorkload(`compactions that keep ${keep}`, async (model, files) => {
        const options = { journal: { maxBytesPerSegment: 95 }, snapshots: { keep } }
        const manager = await model.open(files, options)
        for (let round = 0; round < 3; round++) {
          await applyEach(model, files, manager, 3)
          await model.compact(files, manager)
        }
        await model.compact(files, manager)
        await applyEach(model, files, manager, 1)
        await manager.close()
        const again = await model.open(files, options)
        await model.compact(files, again)
        await applyEach(model, files, again, 1)
        await again.close()
      }),
    ),
    ...[1, 2].map((keep) =>
      stateWorkload(`automatic snapshots, keeping ${keep}, with a compaction between`, async (model, files) => {
        const options = { journal: { maxBytesPerSegment: 80 }, snapshots: { keep, everyMutations: 2 } }
        const manager = await model.open(files, options)
        await applyEach(model, files, manager, 5)
        await model.compact(files, manager)
        await applyEach(model, files, manager, 3)
        await manager.close()
        const again = await model.open(files, options)
        await applyEach(model, files, again, 2)
        await again.close()
      }),
    ),
    stateWorkload('several mutations at once, alone, after others, and with snapshots', async (model, files) => {
      const manager = await model.open(files, { journal: { maxBytesPerSegment: 75 }, snapshots: { keep: 2, everyMutations: 4 } })
      await model.applyAll(files, manager, 3)
      await model.apply(files, manager)
      await model.applyAll(files, manager, 5)
      await model.refuse(manager)
      await Promise.all([model.apply(files, manager), model.applyAll(files, manager, 2), model.apply(files, manager)])
      await model.compact(files, manager)
      await model.applyAll(files, manager, 2)
      model.assertState(manager)
      await manager.close()
      const again = await model.open(files)
      await model.applyAll(files, again, 2)
      await again.close()
    }),
    stateWorkload('a compaction beside mutations', async (model, files) => {
      const manager = await model.open(files, { journal: { maxBytesPerSegment: 95 }, snapshots: { keep: 1 }, capture })
      for (let round = 0; round < 3; round++) {
        const compacted = model.compact(files, manager)
        await applyEach(model, files, manager, 3)
        await Promise.all([compacted, model.createSnapshot(files, manager), model.applyAll(files, manager, 2)])
      }
      const compacted = model.compact(files, manager)
      await Promise.all([model.apply(files, manager), compacted, manager.close()])
      const again = await model.open(files)
      await applyEach(model, files, again, 1)
      await again.close()
    }),
    stateWorkload('automatic snapshots beside mutations', async (model, files) => {
      const options = { journal: { maxBytesPerSegment: 80 }, snapshots: { keep: 2, everyMutations: 2 }, capture }
      const manager = await model.open(files, options)
      await applyEach(model, files, manager, 7)
      await Promise.all([model.compact(files, manager), model.apply(files, manager), model.apply(files, manager)])
      await Promise.all([model.applyAll(files, manager, 4), manager.close()])
      const again = await model.open(files, options)
      await applyEach(model, files, again, 5)
      await again.close()
    }),
    stateWorkload('long lines and snapshots longer than a page', async (model, files) => {
      const manager = await model.open(files)
      await model.apply(files, manager, 'page'.repeat(1100))
      await model.createSnapshot(files, manager)
      await model.apply(files, manager, 'ä€😀'.repeat(700))
      await model.compact(files, manager)
      await model.apply(files, manager)
      await manager.close()
    }),
    stateWorkload('all at once, a close behind them', async (model, files) => {
      const manager = await model.open(files, { journal: { maxBytesPerSegment: 100 } })
      const applies = Array.from({ length: 4 }, () => model.apply(files, manager))
      const compacted = model.compact(files, manager)
      const later = [model.apply(files, manager), model.createSnapshot(files, manager), model.apply(files, manager)]
      await Promise.all([...applies, compacted, ...later, manager.close()])
    }),
  ]
}

async function applyEach(
  model: StateModel,
  files: SimulatedFileSystem,
  manager: LogManager,
  count: number,
): Promise<void> {
  for (let n = 0; n < count; n++) await model.apply(files, manager)
  model.assertState(manager)
}

/** What a power failure has left, and what the state's user knows. */
export interface StateGeneration {
  readonly model: StateModel
  readonly files: SimulatedFileSystem
}

/**
 * Runs a random workload and lets the power fail at one moment of it. The next generation starts
 * from the disk that the failure left and the acknowledgements up to that moment.
 */
export async function runStateGeneration(
  harness: CrashHarness<ExpectedState, FoundState>,
  { model, files }: StateGeneration,
  options: { readonly seed: number; readonly limit: number; readonly insideEvery: number },
): Promise<StateGeneration> {
  const { seed } = options
  const random = createRandom(seed)
  const failsAt = 20 + random.below(80)
  let left: StateGeneration | undefined
  const stop = files.onOperation(({ index }) => {
    if (index !== failsAt) return
    // A write of several lines that lost its middle does not open, so no workload can continue from it.
    const tornVariants: TornVariant[] = model.isManyLines ? ['cut', 'zeros'] : ['cut', 'zeros', 'garbage']
    const states = [...files.crashStates({ seed, limit: 40, tornVariants })]
    const state = states[random.below(states.length)]
    if (state !== undefined) left = { model: model.fork(), files: state }
  })
  const live = async (): Promise<void> => {
    for (let opened = 0; opened < 2; opened++) {
      const manager = await model.open(files, randomOptions(random))
      for (let steps = 3 + random.below(4); steps > 0; steps--) await randomStep(random, { model, files }, manager)
      if (random.below(4) === 0) return
      await manager.close()
    }
  }
  await harness.run(stateWorkload(`random workload, seed ${seed}`, live, model), options, files)
  stop()
  return left ?? { model, files: files.afterCrash({ keep: 'none' }) }
}

async function randomStep(
  random: Random,
  { model, files }: StateGeneration,
  manager: LogManager,
): Promise<void> {
  const kind = random.below(14)
  if (kind < 6) await model.apply(files, manager, random.below(9) === 0 ? 'long'.repeat(40) : undefined)
  else if (kind < 8) await Promise.all([model.apply(files, manager), model.apply(files, manager)])
  else if (kind === 8) await model.createSnapshot(files, manager)
  else if (kind === 9) await Promise.all([model.apply(files, manager), model.compact(files, manager)])
  else if (kind === 10) await model.refuse(manager)
  else if (kind === 11) await model.applyAll(files, manager, 1 + random.below(4))
  else if (kind === 12) await Promise.all([model.applyAll(files, manager, 2), model.apply(files, manager)])
  else await model.compact(files, manager)
}

function randomOptions(random: Random): LogOptions {
  return {
    journal: { maxBytesPerSegment: [60, 100, 200, 100_000][random.below(4)] },
    snapshots: { keep: 1 + random.below(3), everyMutations: [undefined, 1, 2, 5][random.below(4)] },
    capture: random.below(2) === 0 ? capture : undefined,
  }
}
