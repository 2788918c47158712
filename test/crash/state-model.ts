import { MiniStoreError } from '../../src/index.ts'
import { StateManager, type StateOptions } from '../../src/ministate/index.ts'
import type { SimulatedFileSystem } from '../../src/testing/index.ts'
import type { Workload } from './harness.ts'

/** Where the states of the crash tests lie: two directories deep, so that making them is crashed too. */
export const stateDirectory = '/data/deep'

/** A mutation that says which one it is. Its text makes lines and snapshots longer. */
export interface Step {
  readonly id: number
  readonly text?: string
  /** Refused by `validate`. */
  readonly isBad?: boolean
}

/** A state that tells, for every mutation in it, with which sequence number it was made part of it. */
export interface Log {
  readonly log: string[]
  text: string
}

export type LogManager = StateManager<Log, Step>
export type LogOptions = Pick<StateOptions<Log, Step>, 'journal' | 'snapshots'>

/** Opens the state of the crash tests. */
export function openLog(files: SimulatedFileSystem, options: LogOptions = {}): Promise<LogManager> {
  return StateManager.open<Log, Step>(stateDirectory, {
    initialState: () => ({ log: [], text: '' }),
    mutator: (state, { id, text = '' }, { sequence }) => {
      state.log.push(entryOf(sequence, id))
      state.text = text
    },
    validate: (_state, { isBad = false }) => {
      if (isBad) throw new RangeError('refused')
    },
    ...options,
    fileSystem: files,
  })
}

function entryOf(sequence: number, id: number): string {
  return `${sequence}:${id}`
}

/** The log of the first so many of these mutations, by their ids. */
export function foldOf(ids: readonly number[], count: number = ids.length): string[] {
  return ids.slice(0, count).map((id, index) => entryOf(index + 1, id))
}

/** What a crash may leave of a state. */
export interface ExpectedState {
  /** Ids of the mutations that may be there, by sequence number from 1 on. */
  readonly issued: readonly number[]
  /** The last sequence number that must be there. */
  readonly acknowledged: number
  /** From `highest` on every state must be had; known when the step under way has ended. */
  readonly floor: { readonly highest: number }
  /** Set when exactly this must be found: the last sequence number. */
  readonly exactly?: number | undefined
}

/** A state as its user knows it: what was issued, what was acknowledged, what was dropped. Workloads go through it. */
export class StateModel {
  #acknowledged: number[] = []
  #inFlight: number[] = []
  #ids = 0
  #floor = { highest: 0 }
  #steps = 0
  #hasDropped = false
  #hasFailed = false

  /** The expectation now, as {@link Workload.expected} wants it. */
  readonly expected = (): ExpectedState => ({
    issued: [...this.#acknowledged, ...this.#inFlight],
    acknowledged: this.#acknowledged.length,
    floor: this.#floor,
  })

  /** A model that knows the same and goes on alone. */
  fork(): StateModel {
    const copy = new StateModel()
    copy.#acknowledged = [...this.#acknowledged]
    copy.#inFlight = [...this.#inFlight]
    copy.#ids = this.#ids
    // In the middle of a step the floor is filled in when that step ends, for the copy too.
    copy.#floor = this.#steps > 0 ? this.#floor : { ...this.#floor }
    // What a step under way drops is not known to the copy: it takes it for dropped.
    copy.#hasDropped = this.#hasDropped || this.#steps > 0
    return copy
  }

  get acknowledged(): number {
    return this.#acknowledged.length
  }

  async open(files: SimulatedFileSystem, options: LogOptions = {}): Promise<LogManager> {
    const manager = await openLog(files, options)
    const issued = [...this.#acknowledged, ...this.#inFlight]
    const { sequence } = manager
    if (sequence < this.acknowledged || sequence > issued.length) {
      throw new Error(`Opened at ${sequence}, acknowledged ${this.acknowledged}, issued ${issued.length}`)
    }
    // What was in flight before is either there by now, for good, or gone.
    this.#acknowledged = issued.slice(0, sequence)
    this.#inFlight = []
    this.assertState(manager)
    return manager
  }

  /** Memory shows what is acknowledged, and nothing else. */
  assertState(manager: LogManager): void {
    const [found, expected] = [manager.state.log, foldOf(this.#acknowledged)].map((log) => JSON.stringify(log))
    if (found !== expected) throw new Error(`The state is ${found}, acknowledged was ${expected}`)
    if (manager.sequence !== this.acknowledged) throw new Error(`At ${manager.sequence}, expected ${this.acknowledged}`)
  }

  async apply(files: SimulatedFileSystem, manager: LogManager, text?: string): Promise<void> {
    const id = ++this.#ids
    this.#inFlight.push(id)
    try {
      await this.#step(files, async () => {
        const sequence = await manager.apply(text === undefined ? { id } : { id, text })
        const expected = this.#acknowledged.length + 1
        if (sequence !== expected) throw new Error(`Expected the sequence number ${expected}, got ${sequence}`)
        this.#acknowledged.push(id)
        this.#forget(id)
      })
    } catch (error) {
      const isUnknown = error instanceof MiniStoreError && error.code === 'ERR_MINISTORE_OUTCOME_UNKNOWN'
      // Every other rejection says that nothing of it was written, or that what was is gone.
      if (!isUnknown) this.#forget(id)
      throw error
    }
  }

  /** Mutations that are refused: by `validate`, and for another sequence number. Nothing of them may ever show. */
  async refuse(manager: LogManager): Promise<void> {
    const refused = await Promise.allSettled([
      manager.apply({ id: ++this.#ids, isBad: true }),
      manager.apply({ id: ++this.#ids }, { expectedSequence: this.acknowledged + 1 }),
    ])
    if (refused.some(({ status }) => status === 'fulfilled')) throw new Error('A refused mutation was applied')
    this.assertState(manager)
  }

  createSnapshot(files: SimulatedFileSystem, manager: LogManager): Promise<void> {
    return this.#step(files, async () => {
      const { sequence } = await manager.createSnapshot()
      if (sequence !== manager.sequence) throw new Error(`A snapshot of ${sequence}, expected ${manager.sequence}`)
    })
  }

  compact(files: SimulatedFileSystem, manager: LogManager): Promise<void> {
    return this.#step(files, async () => {
      this.#hasDropped = true
      const report = await manager.compact()
      this.#hasDropped = report.firstSequence > 1
    })
  }

  /** What is snapshot or dropped, and how far, is known when all that overlaps has ended. */
  async #step(files: SimulatedFileSystem, task: () => Promise<void>): Promise<void> {
    if (this.#steps === 0) this.#floor = { highest: Infinity }
    this.#steps += 1
    try {
      await task()
    } catch (error) {
      this.#hasFailed = true
      throw error
    } finally {
      this.#steps -= 1
      if (this.#steps === 0) this.#settleFloor(files)
    }
  }

  #settleFloor(files: SimulatedFileSystem): void {
    // A step that failed may have removed any snapshot but the newest, and dropped as much as that covers.
    const oldest = this.#hasFailed ? this.acknowledged : (snapshotsIn(files).at(-1) ?? 0)
    this.#floor.highest = this.#hasDropped ? oldest : 0
    this.#floor = { ...this.#floor }
    this.#hasFailed = false
  }

  #forget(id: number): void {
    this.#inFlight = this.#inFlight.filter((other) => other !== id)
  }
}

/** Sequence numbers of the snapshots that are visible, newest first. */
export function snapshotsIn(files: SimulatedFileSystem): number[] {
  const numbers = files.names(stateDirectory).map((name) => /^snapshot-(\d+)\.json$/.exec(name)?.[1])
  return numbers
    .flatMap((digits) => (digits === undefined ? [] : [Number(digits)]))
    .toSorted((left, right) => right - left)
}

/** A workload of one model. */
export function stateWorkload(
  name: string,
  run: (model: StateModel, files: SimulatedFileSystem) => Promise<void>,
  model: StateModel = new StateModel(),
): Workload<ExpectedState> {
  return { name, expected: model.expected, run: (files) => run(model, files) }
}
