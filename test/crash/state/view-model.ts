import type { FileSystem } from '../../../src/index.ts'
import { MiniStore } from '../../../src/index.ts'
import { StateView } from '../../../src/ministate/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import { elsewhere } from '../../support/elsewhere.ts'
import type { Oracle, Workload } from '../harness.ts'
import { foldOf, type Log, type Step } from './model.ts'

export const journalPath = '/log/journal.jsonl'
const viewDirectory = '/data/view'

export type LogView = StateView<Log, Step>

/** What a crash may leave of a journal and of the snapshots of its view. */
export interface ExpectedView {
  /** Ids of the records that may be there, from sequence number 1 on. */
  readonly issued: readonly number[]
  /** The last sequence number that must be there. */
  readonly acknowledged: number
}

/** What the reopened view held. */
export interface FoundView {
  readonly log: readonly string[]
  /** Sequence number of the newest snapshot that the view had left. */
  readonly snapshot: number
}

export function openWriter(files: FileSystem): Promise<MiniStore<Step>> {
  return MiniStore.open<Step>(journalPath, { fileSystem: files, maxBytesPerSegment: 75 })
}

/** A view with snapshots of its own, which are made after every second record. */
export function openLogView(fileSystem: FileSystem): Promise<LogView> {
  return StateView.open<Log, Step>(journalPath, {
    initialState: () => ({ log: [], text: '' }),
    mutator: ({ log }, { id }, { sequence }) => void log.push(`${sequence}:${id}`),
    snapshots: { directory: viewDirectory, everyMutations: 2, onError: raise },
    onError: raise,
    pollIntervalMs: 1,
    fileSystem,
  })
}

function raise(error: unknown): never {
  throw error
}

/** A writer and a view of its journal, with what the writer was told. */
export class ViewModel {
  readonly #issued: number[] = []
  #acknowledged = 0

  readonly expected = (): ExpectedView => ({ issued: [...this.#issued], acknowledged: this.#acknowledged })

  async append(store: MiniStore<Step>, count: number): Promise<void> {
    for (let n = 0; n < count; n++) {
      const id = 100 + this.#issued.length
      this.#issued.push(id)
      this.#acknowledged = await store.append({ id })
    }
  }

  /** Drops from the journal what both kept snapshots of the view cover. */
  async truncate(store: MiniStore<Step>, files: SimulatedFileSystem): Promise<void> {
    const oldest = snapshotsIn(files).at(-1) ?? 0
    await store.rotate()
    await store.truncateBefore(oldest + 1)
  }
}

/** Workloads with the view in the process of the writer, or in another one. */
export function viewWorkloads(isElsewhere: boolean): Array<Workload<ExpectedView>> {
  const where = isElsewhere ? 'another process' : 'the same process'
  const workload = (
    name: string,
    run: (model: ViewModel, files: SimulatedFileSystem, view: () => Promise<LogView>) => Promise<void>,
  ): Workload<ExpectedView> => {
    const model = new ViewModel()
    return {
      name: `${name}, the view in ${where}`,
      expected: model.expected,
      run: (files) => run(model, files, () => openLogView(isElsewhere ? elsewhere(files) : files)),
    }
  }
  return [
    workload('a view that follows, is closed and opened again', async (model, files, open) => {
      const store = await openWriter(files)
      await model.append(store, 1)
      const view = await open()
      await model.append(store, 4)
      await view.caughtUp()
      await view.close()
      await model.append(store, 2)
      const again = await open()
      await model.append(store, 3)
      await again.caughtUp()
      await store.close()
      await again.close()
    }),
    workload('a journal that drops what the snapshots of its view cover', async (model, files, open) => {
      const store = await openWriter(files)
      for (let round = 0; round < 3; round++) {
        const view = await open()
        await model.append(store, 3)
        await view.caughtUp()
        await view.close()
        await model.truncate(store, files)
      }
      await model.append(store, 1)
      await store.close()
    }),
  ]
}

/** The view equals the fold of the journal, whatever crashed. */
export class ViewOracle implements Oracle<ExpectedView, FoundView> {
  async find(state: SimulatedFileSystem): Promise<FoundView> {
    const snapshot = snapshotsIn(state)[0] ?? 0
    // The view may come back before the writer, which has then recovered nothing.
    const early = await openLogView(elsewhere(state))
    const { log: seen } = early.snapshot()
    await early.close()
    const store = await openWriter(state)
    const view = await openLogView(state)
    const { log } = view.snapshot()
    assert(log.length === store.lastSequence, `the view has ${log.length} records, the journal ${store.lastSequence}`)
    assert(seen.join() === log.slice(0, seen.length).join(), `before the recovery the view was ${seen.join()}`)
    for await (const { sequence, record } of store.entries()) {
      assert(log[sequence - 1] === `${sequence}:${record.id}`, `record ${sequence} was folded as ${log[sequence - 1]}`)
    }
    const next = await store.append({ id: 1 })
    await view.caughtUp({ sequence: next })
    assert(view.state.log.join() === [...log, `${next}:1`].join(), `then the view was ${view.state.log.join()}`)
    await view.close()
    await store.close()
    return { log, snapshot }
  }

  check({ log }: FoundView, { issued, acknowledged }: ExpectedView): void {
    assert(log.length >= acknowledged, `the view is at ${log.length}, but ${acknowledged} were acknowledged`)
    const expected = foldOf(issued, log.length)
    assert(log.join() === expected.join(), `the view is ${log.join()}, expected ${expected.join()}`)
  }

  hasRecovered({ snapshot }: FoundView): boolean {
    return snapshot > 0
  }

  async recover(state: SimulatedFileSystem): Promise<void> {
    const view = await openLogView(elsewhere(state))
    const store = await openWriter(state)
    await view.caughtUp()
    await view.close()
    await store.close()
  }

  expectedInside({ issued }: ExpectedView, { log }: FoundView): ExpectedView {
    return { issued, acknowledged: log.length }
  }
}

function snapshotsIn(files: SimulatedFileSystem): number[] {
  if (!files.exists(viewDirectory)) return []
  const numbers = files.names(viewDirectory).map((name) => Number(/^snapshot-(\d+)\.json$/.exec(name)?.[1] ?? -1))
  return numbers.filter((number) => number >= 0).toSorted((left, right) => right - left)
}

function assert(claim: boolean, otherwise: string): asserts claim {
  if (!claim) throw new Error(otherwise)
}
