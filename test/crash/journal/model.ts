import { type GroupCommit, MiniStore, MiniStoreError, type OpenOptions } from '../../../src/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import type { Workload } from '../harness.ts'
import { OrderMonitor } from './order-monitor.ts'

/**
 * Path of the journals in the crash tests: two directories deep, so that creating the directories
 * is crashed too.
 */
export const journalPath = '/data/deep/journal.jsonl'

/** What a crash may leave of a journal. */
export interface ExpectedJournal {
  /**
   * The JSON of every record that may be there, from sequence number 1 on, including records
   * deleted since.
   */
  readonly issued: readonly string[]
  /** The last sequence number that must be there. */
  readonly acknowledged: number
  /**
   * The range in which the oldest record's sequence number must lie. `highest` is known once the
   * current step has ended.
   */
  readonly floor: { readonly lowest: number; readonly highest: number }
  /** Whether a write of several records may be in progress. */
  readonly isManyLines: boolean
  /** The identity that the journal must have; undefined if none was told yet. */
  readonly id?: string | undefined
  /** If set, the sequence number that the last record must have. */
  readonly exactly?: number | undefined
}

type Write = readonly string[]

/**
 * A journal as its user knows it: what was issued, what was acknowledged and what was deleted.
 * Workloads write through it.
 */
export class JournalModel {
  readonly #acknowledged: string[] = []
  #inFlight: Write[] = []
  #floor = { lowest: 1, highest: 1 }
  #steps = 0
  #order: OrderMonitor | undefined
  /** The identity that a store has told. */
  #id: string | undefined
  #hasFailed = false
  /** Whether writes that overlap may share an fsync. */
  #isGrouped = false
  /** Whether some record may or may not be there until the journal is next opened. */
  isUnknown = false

  /** The current expectation, in the form of {@link Workload.expected}. */
  readonly expected = (): ExpectedJournal => ({
    issued: [...this.#acknowledged, ...this.#inFlight.flat()],
    acknowledged: this.#acknowledged.length,
    floor: this.#floor,
    isManyLines: this.#inFlight.some((write) => write.length > 1) || (this.#isGrouped && this.#inFlight.length > 1),
    id: this.#id,
  })

  /** Returns an independent model with the same knowledge. */
  fork(): JournalModel {
    const copy = new JournalModel()
    copy.#acknowledged.push(...this.#acknowledged)
    copy.#inFlight = [...this.#inFlight]
    copy.#id = this.#id
    copy.#isGrouped = this.#isGrouped
    // During a step the copy shares the floor, which is filled in when the step ends. Otherwise
    // each model gets its own floor.
    copy.#floor = this.#steps > 0 ? this.#floor : { ...this.#floor }
    return copy
  }

  get acknowledged(): number {
    return this.#acknowledged.length
  }

  async open(files: SimulatedFileSystem, options: OpenOptions = {}): Promise<MiniStore> {
    const order = OrderMonitor.of(files, journalPath)
    order.begin()
    this.#order = order
    const store = await MiniStore.open(journalPath, { ...options, fileSystem: files })
    order.settled('open')
    // Opening settles what was in flight: it is now there for good, or gone.
    const issued = [...this.#acknowledged, ...this.#inFlight.flat()]
    if (store.lastSequence > issued.length)
      throw new Error(`Opened with ${store.lastSequence}, issued ${issued.length}`)
    if (store.lastSequence < this.acknowledged) {
      throw new Error(`Opened with ${store.lastSequence}, acknowledged ${this.acknowledged}`)
    }
    if (this.#id !== undefined && store.id !== this.#id) {
      throw new Error(`Opened with the identity ${store.id}, it was ${this.#id}`)
    }
    this.#id = store.id
    this.#acknowledged.push(...issued.slice(this.#acknowledged.length, store.lastSequence))
    this.#inFlight = []
    this.isUnknown = false
    this.#settleFloor(store)
    return store
  }

  append(store: MiniStore, record: unknown): Promise<void> {
    return this.#write(store, [record], async () => {
      const sequence = await store.append(record)
      return { first: sequence, last: sequence }
    })
  }

  appendAll(store: MiniStore, records: readonly unknown[]): Promise<void> {
    return this.#write(store, records, () => store.appendAll(records))
  }

  /** Appends through a group of the store. */
  appendInGroup(store: MiniStore, group: GroupCommit, record: unknown): Promise<void> {
    this.#isGrouped = true
    return this.#write(store, [record], async () => {
      const sequence = await group.append(record)
      return { first: sequence, last: sequence }
    })
  }

  /** Writes a stream of records through a group of the store. Nothing else may write meanwhile. */
  pipeIntoGroup(store: MiniStore, group: GroupCommit, records: readonly unknown[]): Promise<void> {
    this.#isGrouped = true
    return this.#write(store, records, async () => {
      await ReadableStream.from(records).pipeTo(group.writable())
      return { first: store.lastSequence - records.length + 1, last: store.lastSequence }
    })
  }

  rotate(store: MiniStore): Promise<void> {
    return this.#changeNames(store, 'rotate', () => store.rotate())
  }

  truncateBefore(store: MiniStore, sequence: number): Promise<void> {
    return this.#changeNames(store, 'truncateBefore', () => store.truncateBefore(sequence))
  }

  /** Throws if any operation so far was out of order. */
  assertInOrder(): void {
    this.#order?.assertInOrder()
  }

  #changeNames(store: MiniStore, what: string, task: () => Promise<void>): Promise<void> {
    return this.#step(store, async () => {
      await task()
      // A call that overlaps with this one may already have started changes of its own.
      if (this.#steps === 1) this.#order?.settled(what)
    })
  }

  async #write(
    store: MiniStore,
    records: readonly unknown[],
    task: () => Promise<{ first: number; last: number }>,
  ): Promise<void> {
    const write: Write = records.map((record) => JSON.stringify(record))
    this.#inFlight.push(write)
    try {
      await this.#step(store, async () => {
        const { first, last } = await task()
        const expected = [this.#acknowledged.length + 1, this.#acknowledged.length + records.length]
        if (first !== expected[0] || last !== expected[1]) {
          throw new Error(`Expected the sequence numbers ${expected.join(' to ')}, got ${first} to ${last}`)
        }
        this.#order?.acknowledge(first, write)
        this.#acknowledged.push(...write)
        this.#forget(write)
      })
    } catch (error) {
      const code = error instanceof MiniStoreError ? error.code : undefined
      if (code === 'ERR_MINISTORE_OUTCOME_UNKNOWN') this.isUnknown = true
      // Every other rejection means that nothing was written, or that what was written is gone.
      else this.#forget(write)
      throw error
    }
  }

  #forget(write: Write): void {
    this.#inFlight = this.#inFlight.filter((other) => other !== write)
  }

  async #step(store: MiniStore, task: () => Promise<void>): Promise<void> {
    // Whether a step deletes records, and how many, is known when it has ended. Overlapping steps
    // share one floor.
    if (this.#steps === 0) this.#floor = { lowest: this.#floor.lowest, highest: Infinity }
    this.#steps += 1
    try {
      await task()
    } catch (error) {
      this.#hasFailed = true
      throw error
    } finally {
      this.#steps -= 1
      if (this.#steps === 0) this.#settleFloor(store)
    }
  }

  #settleFloor(store: MiniStore): void {
    const { firstSequence } = store
    this.#floor.highest = firstSequence
    // Records deleted by a failed step may come back.
    this.#floor = { lowest: this.#hasFailed ? this.#floor.lowest : firstSequence, highest: firstSequence }
    this.#hasFailed = false
  }
}

/** A workload on one model. It also checks the order of its operations. */
export function journalWorkload(
  name: string,
  run: (model: JournalModel, files: SimulatedFileSystem) => Promise<void>,
  model: JournalModel = new JournalModel(),
): Workload<ExpectedJournal> {
  return {
    name,
    expected: model.expected,
    run: async (files) => {
      await run(model, files)
      model.assertInOrder()
    },
  }
}
