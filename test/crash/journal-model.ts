import { MiniStore, MiniStoreError, type OpenOptions } from '../../src/index.ts'
import type { SimulatedFileSystem } from '../../src/testing/index.ts'
import type { Workload } from './harness.ts'
import { OrderMonitor } from './order-monitor.ts'

/** Where the journals of the crash tests lie: two directories deep, so that making them is crashed too. */
export const journalPath = '/data/deep/journal.jsonl'

/** What a crash may leave of a journal. */
export interface ExpectedJournal {
  /**
   * The JSON of every record that may be there, by sequence number from 1 on, whether it was deleted
   * since or not.
   */
  readonly issued: readonly string[]
  /** The last sequence number that must be there. */
  readonly acknowledged: number
  /**
   * Sequence numbers between which the oldest record must lie; `highest` is known when the step under
   * way has ended.
   */
  readonly floor: { readonly lowest: number; readonly highest: number }
  /** Whether a write of several records may be under way. */
  readonly isManyLines: boolean
  /** Set when exactly this must be found: the number of the last record. */
  readonly exactly?: number | undefined
}

type Write = readonly string[]

/**
 * A journal as its user knows it: what was issued, what was acknowledged, what was deleted. Workloads
 * write through it.
 */
export class JournalModel {
  readonly #acknowledged: string[] = []
  #inFlight: Write[] = []
  #floor = { lowest: 1, highest: 1 }
  #steps = 0
  #order: OrderMonitor | undefined
  #hasFailed = false
  /** Set when a record may or may not be there until the journal is opened anew. */
  isUnknown = false

  /** The expectation now, as {@link Workload.expected} wants it. */
  readonly expected = (): ExpectedJournal => ({
    issued: [...this.#acknowledged, ...this.#inFlight.flat()],
    acknowledged: this.#acknowledged.length,
    floor: this.#floor,
    isManyLines: this.#inFlight.some((write) => write.length > 1),
  })

  /** A model that knows the same and goes on alone. */
  fork(): JournalModel {
    const copy = new JournalModel()
    copy.#acknowledged.push(...this.#acknowledged)
    copy.#inFlight = [...this.#inFlight]
    // In the middle of a step the floor is filled in when that step ends, for the copy too; else each goes its own way.
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
    // What was in flight before is either there by now, for good, or gone.
    const issued = [...this.#acknowledged, ...this.#inFlight.flat()]
    if (store.lastSequence > issued.length)
      throw new Error(`Opened with ${store.lastSequence}, issued ${issued.length}`)
    if (store.lastSequence < this.acknowledged) {
      throw new Error(`Opened with ${store.lastSequence}, acknowledged ${this.acknowledged}`)
    }
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

  rotate(store: MiniStore): Promise<void> {
    return this.#changeNames(store, 'rotate', () => store.rotate())
  }

  truncateBefore(store: MiniStore, sequence: number): Promise<void> {
    return this.#changeNames(store, 'truncateBefore', () => store.truncateBefore(sequence))
  }

  /** Throws if anything so far was done in the wrong order. */
  assertInOrder(): void {
    this.#order?.assertInOrder()
  }

  #changeNames(store: MiniStore, what: string, task: () => Promise<void>): Promise<void> {
    return this.#step(store, async () => {
      await task()
      // What overlaps with it may have begun something of its own by now.
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
      // Every other rejection says that nothing of it was written, or that what was is gone.
      else this.#forget(write)
      throw error
    }
  }

  #forget(write: Write): void {
    this.#inFlight = this.#inFlight.filter((other) => other !== write)
  }

  async #step(store: MiniStore, task: () => Promise<void>): Promise<void> {
    // Whether it deletes anything, and how much, is known when it has ended; overlapping steps share one
    // floor.
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
    // What a step that failed has deleted may come back.
    this.#floor = { lowest: this.#hasFailed ? this.#floor.lowest : firstSequence, highest: firstSequence }
    this.#hasFailed = false
  }
}

/** A workload of one model, which also holds the order of what it does. */
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
