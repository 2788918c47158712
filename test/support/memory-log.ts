import {
  type AppendOptions, type Journal, type JournalEntry, type JournalRange, MiniStoreError, PreparedRecord, type SnapshotInfo, type Snapshots,
} from '../../src/index.ts'
import { sequenceConflict } from '../../src/errors.ts'

/** What a {@link MemoryJournal} leaves when it is closed: the "disk" of a log in memory. */
export class MemoryLog {
  id: string | undefined = Array.from({ length: 16 }, () => Math.floor(Math.random() * 16).toString(16)).join('')
  first = 1
  readonly texts: string[] = []
  /** Raised by each opening, so that earlier writers are told apart. */
  epoch = 0
  readonly #waiting = new Set<() => void>()

  get last(): number {
    return this.first + this.texts.length - 1
  }

  textOf(sequence: number): string {
    return this.texts[sequence - this.first] as string
  }

  write(texts: readonly string[]): number {
    this.texts.push(...texts)
    this.wake()
    return this.last
  }

  /** Resolves at the next change. */
  change(): Promise<void> {
    return new Promise((resolve) => void this.#waiting.add(resolve))
  }

  wake(): void {
    for (const resolve of this.#waiting) resolve()
    this.#waiting.clear()
  }
}

/**
 * A `Journal` written by hand, as a user of the library might write one on a database. It does
 * everything that the interface has.
 */
export class MemoryJournal<T> implements Journal<T> {
  readonly log: MemoryLog
  readonly #epoch: number
  #turn: Promise<unknown> = Promise.resolve()
  #isClosed = false

  constructor(log: MemoryLog) {
    this.log = log
    this.#epoch = ++log.epoch
  }

  get firstSequence(): number {
    return this.log.first
  }

  get lastSequence(): number {
    return this.log.last
  }

  get id(): string | undefined {
    return this.log.id
  }

  async append(record: T, options?: AppendOptions): Promise<number> {
    const text = JSON.stringify(record)
    return await this.inTurn(() => this.write([text], options))
  }

  async appendAll(records: Iterable<T | PreparedRecord>, options?: AppendOptions): Promise<{ first: number; last: number }> {
    const texts = Array.from(records, (record) => (record instanceof PreparedRecord ? record.text : JSON.stringify(record)))
    const last = await this.inTurn(() => this.write(texts, options))
    return { first: last - texts.length + 1, last }
  }

  prepare(record: T): PreparedRecord {
    return new PreparedRecord(JSON.stringify(record))
  }

  entries(range?: JournalRange): ReadableStream<JournalEntry<T>> {
    return this.stream(range, (text) => JSON.parse(text) as T)
  }

  preparedEntries(range?: JournalRange): ReadableStream<JournalEntry<PreparedRecord>> {
    return this.stream(range, (text) => new PreparedRecord(text))
  }

  truncateBefore(sequence: number): Promise<void> {
    return this.inTurn(() => {
      this.log.texts.splice(0, sequence - this.log.first)
      this.log.first = Math.max(this.log.first, sequence)
      this.log.wake()
    })
  }

  adopt({ id, firstSequence }: { readonly id: string; readonly firstSequence: number }): Promise<void> {
    return this.inTurn(() => {
      if (id === this.log.id) return
      if (this.log.last > 0) throw new MiniStoreError('ERR_MINISTORE_FOREIGN_JOURNAL', `Expected ${id}, got ${this.log.id}`)
      this.log.id = id
      this.log.first = firstSequence
    })
  }

  refresh(): Promise<void> {
    return Promise.resolve()
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await this.#turn
    this.log.wake()
  }

  /** Runs a task after all earlier ones, unless the journal is closed or was taken over. */
  async inTurn<Result>(task: () => Result): Promise<Result> {
    if (this.#isClosed) throw new MiniStoreError('ERR_MINISTORE_CLOSED', 'The journal is closed')
    const turn = this.#turn.then(() => {
      if (this.#epoch < this.log.epoch) throw new MiniStoreError('ERR_MINISTORE_FENCED', 'Another writer has taken over')
      return task()
    })
    this.#turn = turn.catch(() => {})
    return await turn
  }

  write(texts: readonly string[], { expectedSequence }: AppendOptions = {}): number {
    const { last } = this.log
    if (expectedSequence !== undefined && expectedSequence !== last) {
      throw sequenceConflict('the log', { expectedSequence, sequence: last })
    }
    return this.log.write(texts)
  }

  stream<Item>(range: JournalRange = {}, decode: (text: string) => Item): ReadableStream<JournalEntry<Item>> {
    const { log } = this
    const { from: next = log.first, follow = false, to = follow ? Infinity : log.last, signal } = range
    let sequence = next
    let isOver = false
    const isWaiting = (): boolean => follow && sequence > log.last && sequence <= to && !isOver
    return new ReadableStream<JournalEntry<Item>>({
      start: (controller) => {
        signal?.addEventListener('abort', () => {
          isOver = true
          controller.error(signal.reason)
        })
      },
      pull: async (controller) => {
        while (isWaiting()) await log.change()
        if (isOver) return
        if (sequence > to || sequence > log.last) {
          controller.close()
        } else if (sequence < log.first) {
          controller.error(new MiniStoreError('ERR_MINISTORE_SEQUENCE_GONE', `Number ${sequence} was removed`, { sequence }))
        } else {
          controller.enqueue({ sequence, record: decode(log.textOf(sequence)) })
          sequence += 1
        }
      },
      cancel: () => {
        isOver = true
      },
    }, { highWaterMark: 0 })
  }
}

/** Snapshots in memory, written by hand: no more than the interface asks for. */
export class MemorySnapshots<State> implements Snapshots<State> {
  readonly keep: number
  readonly texts: Map<number, string>

  constructor(texts: Map<number, string> = new Map(), keep = 2) {
    this.texts = texts
    this.keep = keep
  }

  create(state: State, sequence: number): Promise<SnapshotInfo> {
    return this.put(sequence, JSON.stringify(state))
  }

  async put(sequence: number, text: string): Promise<SnapshotInfo> {
    this.texts.set(sequence, text)
    const whole = this.sequences.filter((other) => this.isWhole(other))
    for (const old of this.sequences) if (old < (whole[this.keep - 1] ?? 0)) this.texts.delete(old)
    return this.infoOf(sequence)
  }

  async restore({ atMost = Infinity }: { readonly atMost?: number | undefined } = {}): Promise<
    { readonly state: State; readonly sequence: number; readonly damaged: readonly MiniStoreError[] } | undefined
  > {
    const damaged: MiniStoreError[] = []
    for (const sequence of this.sequences.filter((other) => other <= atMost)) {
      if (this.isWhole(sequence)) return { state: this.stateOf(sequence), sequence, damaged }
      damaged.push(damageAt(sequence))
    }
    if (damaged[0] !== undefined) throw damaged[0]
    return undefined
  }

  list(): Promise<SnapshotInfo[]> {
    return Promise.resolve(this.sequences.map((sequence) => this.infoOf(sequence)))
  }

  async verify(sequence: number): Promise<void> {
    if (!this.isWhole(sequence)) throw damageAt(sequence)
  }

  /** Sequence numbers, newest first. */
  get sequences(): number[] {
    return [...this.texts.keys()].toSorted((left, right) => right - left)
  }

  isWhole(sequence: number): boolean {
    return this.texts.get(sequence) !== 'damaged'
  }

  stateOf(sequence: number): State {
    return JSON.parse(this.texts.get(sequence) as string) as State
  }

  infoOf(sequence: number): SnapshotInfo {
    return { sequence, path: `memory/${sequence}`, bytes: this.texts.get(sequence)?.length ?? 0 }
  }
}

function damageAt(sequence: number): MiniStoreError {
  return new MiniStoreError('ERR_MINISTORE_SNAPSHOT_DAMAGED', `The snapshot ${sequence} is damaged`, { sequence })
}
