import { MiniStoreError } from '../../../src/index.ts'
import { StateManager, type StateOptions } from '../../../src/ministate/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import type { Workload } from '../harness.ts'

/**
 * Directory of the states in the crash tests: two levels deep, so that creating the directories is
 * crashed too.
 */
export const stateDirectory = '/data/deep'

/** A mutation that names itself by its id. Its text makes lines and snapshots longer. */
export interface Step {
  readonly id: number
  readonly text?: string
  /** `validate` refuses it. */
  readonly isBad?: boolean
}

/**
 * A state that records, for every mutation in it, the sequence number with which it was applied.
 */
export interface Log {
  readonly log: string[]
  text: string
}

export type LogManager = StateManager<Log, Step>
export type LogOptions = Pick<StateOptions<Log, Step>, 'journal' | 'snapshots' | 'capture'>

/** Copies what the mutator changes, so that snapshots are written beside further mutations. */
export function capture({ log, text }: Log): Log {
  return { log: [...log], text }
}

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

/** The log after the first `count` of these mutations, given by their ids. */
export function foldOf(ids: readonly number[], count: number = ids.length): string[] {
  return ids.slice(0, count).map((id, index) => entryOf(index + 1, id))
}

/** What a crash may leave of a state. */
export interface ExpectedState {
  /** Ids of the mutations that may be there, from sequence number 1 on. */
  readonly issued: readonly number[]
  /** The last sequence number that must be there. */
  readonly acknowledged: number
  /** Whether one write of several mutations may be under way. */
  readonly isManyLines?: boolean | undefined
  /**
   * Every past state from `highest` on must be available. Known once the current step has ended.
   */
  readonly floor: { readonly highest: number }
  /** If set, the last sequence number that must be found. */
  readonly exactly?: number | undefined
}

/**
 * A state as its user knows it: what was issued, what was acknowledged and what was dropped.
 * Workloads go through it.
 */
export class StateModel {
  #acknowledged: number[] = []
  #inFlight: number[] = []
  #ids = 0
  #floor = { highest: 0 }
  #steps = 0
  #hasDropped = false
  #hasFailed = false
  /** Whether snapshots may be made while no step is under way, so that a step's end settles nothing. */
  #isUnsettled = false
  /** The first ids of the writes of several mutations that may not be durable yet. */
  readonly #manyLines = new Set<number>()

  /** The current expectation, in the form of {@link Workload.expected}. */
  readonly expected = (): ExpectedState => ({
    issued: [...this.#acknowledged, ...this.#inFlight],
    acknowledged: this.#acknowledged.length,
    floor: this.#floor,
    isManyLines: this.isManyLines,
  })

  /** Returns an independent model with the same knowledge. */
  fork(): StateModel {
    const copy = new StateModel()
    copy.#acknowledged = [...this.#acknowledged]
    copy.#inFlight = [...this.#inFlight]
    copy.#ids = this.#ids
    // During a step the copy shares the floor, which is filled in when the step ends.
    copy.#floor = this.#steps > 0 ? this.#floor : { ...this.#floor }
    // The copy never learns what the current step drops, so it assumes that records were dropped.
    copy.#hasDropped = this.#hasDropped || this.#steps > 0
    copy.#isUnsettled = this.#isUnsettled
    return copy
  }

  get acknowledged(): number {
    return this.#acknowledged.length
  }

  /** Whether one write of several mutations may be torn by a crash now. */
  get isManyLines(): boolean {
    return this.#manyLines.size > 0
  }

  async open(files: SimulatedFileSystem, options: LogOptions = {}): Promise<LogManager> {
    const manager = await openLog(files, options)
    // A snapshot that one manager began beside its last mutations may be what the next one opens with.
    this.#isUnsettled ||= options.capture !== undefined && options.snapshots?.everyMutations !== undefined
    const issued = [...this.#acknowledged, ...this.#inFlight]
    const { sequence } = manager
    if (sequence < this.acknowledged || sequence > issued.length) {
      throw new Error(`Opened at ${sequence}, acknowledged ${this.acknowledged}, issued ${issued.length}`)
    }
    // Opening settles what was in flight: it is now there for good, or gone.
    this.#acknowledged = issued.slice(0, sequence)
    this.#inFlight = []
    this.#manyLines.clear()
    this.assertState(manager)
    return manager
  }

  /** Checks that memory shows exactly what was acknowledged. */
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
      // Every other rejection means that nothing was written, or that what was written is gone.
      if (!isUnknown) this.#forget(id)
      throw error
    }
  }

  /** Applies several mutations at once. They are acknowledged together. */
  async applyAll(files: SimulatedFileSystem, manager: LogManager, count: number): Promise<void> {
    const ids = Array.from({ length: count }, () => ++this.#ids)
    const [firstId = 0] = ids
    this.#inFlight.push(...ids)
    this.#manyLines.add(firstId)
    try {
      await this.#step(files, async () => {
        const { first, last } = await manager.applyAll(ids.map((id) => ({ id })))
        const expected = this.#acknowledged.length + 1
        if (first !== expected || last !== first + count - 1) throw new Error(`Expected ${count} from ${expected}, got ${first} to ${last}`)
        this.#acknowledged.push(...ids)
        for (const id of ids) this.#forget(id)
        this.#manyLines.delete(firstId)
      })
    } catch (error) {
      const isUnknown = error instanceof MiniStoreError && error.code === 'ERR_MINISTORE_OUTCOME_UNKNOWN'
      if (!isUnknown) {
        for (const id of ids) this.#forget(id)
        this.#manyLines.delete(firstId)
      }
      throw error
    }
  }

  /**
   * Makes mutations that must be refused, alone and among good ones: by `validate`, or for their
   * expected sequence number. None may ever show.
   */
  async refuse(manager: LogManager): Promise<void> {
    const expectedSequence = this.acknowledged + 1
    const step = (isBad = false): Step => ({ id: ++this.#ids, isBad })
    const refused = await Promise.allSettled([
      manager.apply(step(true)),
      manager.apply(step(), { expectedSequence }),
      manager.applyAll([step(), step(true), step()]),
      manager.applyAll([step(), step()], { expectedSequence }),
    ])
    if (refused.some(({ status }) => status === 'fulfilled')) throw new Error('A refused mutation was applied')
    this.assertState(manager)
  }

  createSnapshot(files: SimulatedFileSystem, manager: LogManager): Promise<void> {
    return this.#step(files, async () => {
      const least = manager.sequence
      const { sequence } = await manager.createSnapshot()
      const most = manager.sequence
      if (sequence < least || sequence > most) throw new Error(`A snapshot of ${sequence}, expected ${least} to ${most}`)
    })
  }

  compact(files: SimulatedFileSystem, manager: LogManager): Promise<void> {
    return this.#step(files, async () => {
      this.#hasDropped = true
      const report = await manager.compact()
      this.#hasDropped = report.firstSequence > 1
    })
  }

  /** What a step snapshots or drops is known when all overlapping steps have ended. */
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
    // A failed step may have removed any snapshot except the newest, and every record that the
    // newest covers.
    const oldest = this.#hasFailed ? this.acknowledged : (snapshotsIn(files).at(-1) ?? 0)
    this.#floor.highest = !this.#hasDropped ? 0 : this.#isUnsettled ? Infinity : oldest
    this.#floor = { ...this.#floor }
    this.#hasFailed = false
  }

  #forget(id: number): void {
    this.#inFlight = this.#inFlight.filter((other) => other !== id)
  }
}

/** Sequence numbers of the visible snapshots, newest first. */
export function snapshotsIn(files: SimulatedFileSystem): number[] {
  const numbers = files.names(stateDirectory).map((name) => /^snapshot-(\d+)\.json$/.exec(name)?.[1])
  return numbers
    .flatMap((digits) => (digits === undefined ? [] : [Number(digits)]))
    .toSorted((left, right) => right - left)
}

/** A workload on one model. */
export function stateWorkload(
  name: string,
  run: (model: StateModel, files: SimulatedFileSystem) => Promise<void>,
  model: StateModel = new StateModel(),
): Workload<ExpectedState> {
  return { name, expected: model.expected, run: (files) => run(model, files) }
}
