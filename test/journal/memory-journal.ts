import { ChangeSignal } from '../../src/async.ts'
import type { AppendOptions, Journal, JournalEntry, JournalRange } from '../../src/index.ts'
import { sequenceConflict } from '../../src/errors.ts'

/** The smallest log that is a `Journal`: an array with the required methods and no identity. */
export class MemoryJournal<T> implements Journal<T> {
  readonly records: T[]
  firstSequence = 1
  /** Called before an append, which fails if it throws. */
  onAppend: (record: T) => void = () => {}
  readonly #change = new ChangeSignal()
  readonly #open = new AbortController()

  constructor(records: readonly T[] = []) {
    this.records = [...records]
  }

  get lastSequence(): number {
    return this.firstSequence + this.records.length - 1
  }

  async append(record: T, { expectedSequence }: AppendOptions = {}): Promise<number> {
    const { lastSequence: sequence } = this
    if (expectedSequence !== undefined && expectedSequence !== sequence) {
      throw sequenceConflict('the log', { expectedSequence, sequence })
    }
    this.onAppend(record)
    this.records.push(record)
    this.#change.wake()
    return sequence + 1
  }

  entries(range: JournalRange = {}): ReadableStream<JournalEntry<T>> {
    const { from = this.firstSequence, to = range.follow ? Infinity : this.lastSequence } = range
    let next = from
    const mustWait = (): boolean => next <= to && next > this.lastSequence && !this.#open.signal.aborted
    return new ReadableStream<JournalEntry<T>>({
      pull: async (controller) => {
        while (mustWait()) await this.#change.next(this.#open.signal).catch(() => {})
        if (next > to || next > this.lastSequence) return controller.close()
        controller.enqueue({ sequence: next, record: this.records[next - this.firstSequence] as T })
        next++
      },
    }, { highWaterMark: 0 })
  }

  async truncateBefore(sequence: number): Promise<void> {
    this.records.splice(0, sequence - this.firstSequence)
    this.firstSequence = sequence
  }

  /** Ends its followers. */
  async close(): Promise<void> {
    this.#open.abort()
  }
}
