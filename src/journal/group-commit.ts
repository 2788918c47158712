import { AsyncResource } from 'node:async_hooks'
import { nextTick } from 'node:process'

import { MiniStoreError, propertyOf } from '../errors.ts'
import { fields, integer, isObject, shown } from '../options.ts'
import { bytesRefused, isPrepared, type PreparedRecord } from '../schema.ts'
import type { Journal } from './journal.ts'

/** Options of {@link groupCommit}. */
export interface GroupCommitOptions {
  /**
   * Maximum number of records that are written with one fsync.
   *
   * @default 1000; minimum 1
   */
  readonly maxRecords?: number | undefined
  /**
   * Maximum number of bytes that are written with one fsync, line feeds included. A longer record is
   * written alone.
   *
   * @default 1 MiB; minimum 1
   */
  readonly maxBytes?: number | undefined
}

/**
 * Returns a group: appends to a journal by which concurrent callers share an fsync.
 *
 * The first append goes to the disk at once. Those that are called meanwhile are written together, in
 * call order, with the next `appendAll`, and so on. Nothing waits for a timer.
 *
 * Each batch is one `appendAll` and promises no more and no less. The journal's own appends may be
 * used beside the group; they come between two batches. Close the group before the journal.
 *
 * ```ts
 * await using store = await MiniStore.open('orders/journal.jsonl')
 * await using group = groupCommit(store)
 * const sequences = await Promise.all(orders.map((order) => group.append(order)))
 * ```
 *
 * @param journal `MiniStore`, or any other {@link Journal} with `prepare` and `appendAll`, open for
 *   writing.
 * @throws {TypeError | RangeError} if the journal lacks one of these, or if an option is invalid.
 */
export function groupCommit<Input>(
  journal: Journal<unknown, Input>,
  options?: GroupCommitOptions,
): GroupCommit<Input> {
  const { maxRecords, maxBytes } = fields(options, ['maxRecords', 'maxBytes'])
  const limits = {
    maxRecords: integer('maxRecords', maxRecords, { default: 1000 }),
    maxBytes: integer('maxBytes', maxBytes, { default: 1024 * 1024 }),
  }
  return new GroupCommit(groupable(journal), limits)
}

type Groupable<Input> = Required<Pick<Journal<unknown, Input>, 'prepare' | 'appendAll'>>

type Limits = { readonly [Name in keyof GroupCommitOptions]-?: number }

function groupable<Input>(journal: unknown): Groupable<Input> {
  const missing = ['prepare', 'appendAll'].filter((name) => typeof propertyOf(journal, name) !== 'function')
  if (isObject(journal) && missing.length === 0) return journal as Groupable<Input>
  const got = isObject(journal) ? `one without ${missing.join(' and ')}` : shown(journal)
  throw new TypeError(`Expected \`journal\` to be a journal with prepare and appendAll, as MiniStore.open returns, got ${got}`)
}

/** What is told of a record that was accepted, with the bytes of its line. */
interface Caller {
  resolve(sequence: number, bytes: number): void
  reject(error: unknown, bytes: number): void
  /** Present once a record of the same stream was refused or not written. Later ones are then refused too. */
  readonly failure?: Failure | undefined
}

/** Wrapped, because any value may be thrown. */
interface Failure {
  readonly error: unknown
}

/** A record that was accepted and has not come to its turn. */
interface Waiting {
  readonly prepared: PreparedRecord
  /** Length of its line, line feed included. */
  readonly bytes: number
  readonly caller: Caller
  /** Present while an asynchronous schema decides. Never rejects. */
  checking?: Promise<void> | undefined
  /** Present once that schema has refused the record. */
  refusal?: Failure
}

/**
 * A journal whose concurrent appends share an fsync. {@link groupCommit} returns one.
 *
 * **Invariant.** Records are written in the order in which they were accepted, one batch at a time.
 * A record is acknowledged after the `appendAll` of its batch has resolved.
 */
export class GroupCommit<Input = unknown> implements AsyncDisposable {
  readonly #journal: Groupable<Input>
  readonly #limits: Limits
  /** A batch belongs to many calls, so it is written in the context of none of them. */
  readonly #context = new AsyncResource('ministore.group')
  readonly #waiting: Waiting[] = []
  /** Present while records are waiting or being written. */
  #writing: Promise<void> | undefined
  #isClosed = false

  /** Use {@link groupCommit}. */
  constructor(journal: Groupable<Input>, limits: Limits) {
    this.#journal = journal
    this.#limits = limits
  }

  /**
   * Appends one record and resolves with its sequence number once the record is on stable storage,
   * together with the other records of its batch.
   *
   * The record is serialized before `append` returns. Calls may overlap; records are written in call
   * order. A record that the journal refuses is refused alone. An asynchronous schema begins at the
   * call, for many records at a time. Until it has decided, the records behind wait, those before do
   * not.
   *
   * If the `appendAll` of a batch fails, every record of the batch rejects with its error: nothing of
   * the batch is written, except after `ERR_MINISTORE_OUTCOME_UNKNOWN`. It is not tried again. A crash
   * before it resolves may leave a prefix of the batch.
   *
   * Nothing limits how many records wait, except the callers. Each takes its line and about 0.5 KB of
   * memory. Use {@link writable} for a source that is faster than the disk.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED` if the group is closed or closing. Otherwise as
   *   `prepare` and `appendAll` of the journal.
   * @throws {TypeError} if `expectedSequence` is given: what lies before a record in its batch is
   *   decided only when the batch is written. Use `append` of the journal.
   */
  append(record: Input, options?: { readonly expectedSequence?: undefined }): Promise<number> {
    return new Promise((resolve, reject) => {
      refuseCondition(options)
      this.#add(this.#prepare(record), { resolve, reject })
    })
  }

  /**
   * Returns a `WritableStream` that appends each chunk as one record. A single stream shares fsyncs
   * too: a write resolves once the record is accepted, and waits only while two full batches of the
   * stream (`maxRecords` or `maxBytes`) are not yet written. So at most that much of a stream is in
   * memory.
   *
   * Every record is on stable storage when closing the stream, or `pipeTo`, resolves. If a record is
   * refused or its batch fails, no later record of the stream is written, and the stream fails with
   * the error once those before are settled. So the journal holds a beginning of the stream, also
   * after a crash. Aborting the stream writes what was accepted and drops the chunks behind it.
   *
   * The group stays open. The journal's codec and schema run in the asynchronous context in which the
   * stream was created. Bytes are refused as `writable` of `MiniStore` refuses them.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED` if the group is closed or closing.
   */
  writable(): WritableStream<Input> {
    this.#assertOpen()
    const context = new AsyncResource('ministore.writable')
    const add = (record: Input, caller: Caller): number => {
      const prepared = context.runInAsyncScope(() => this.#prepare(record))
      // Stored as the list of their numbers, so the journal has no codec for bytes.
      if (ArrayBuffer.isView(record) && prepared.text === JSON.stringify(record)) throw bytesRefused()
      return this.#add(prepared, caller)
    }
    return new WritableStream<Input>(new GroupSink(add, this.#limits))
  }

  /**
   * Refuses further records and resolves when every accepted one is settled. Each `append` reports
   * its own failure, so `close` never rejects. The journal stays open. May be called again.
   */
  async close(): Promise<void> {
    this.#isClosed = true
    await this.#writing
  }

  /** Calls {@link close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #assertOpen(): void {
    if (this.#isClosed) throw new MiniStoreError('ERR_MINISTORE_CLOSED', 'The group is closed')
  }

  #prepare(record: Input): PreparedRecord {
    this.#assertOpen()
    const prepared: unknown = this.#journal.prepare(record)
    if (!isPrepared(prepared)) throw new TypeError(`Expected prepare of the journal to return a PreparedRecord, got ${shown(prepared)}`)
    // The record's `toJSON`, its schema or its codec may have closed the group.
    this.#assertOpen()
    return prepared
  }

  /** Accepts a record. Returns the bytes of its line. */
  #add(prepared: PreparedRecord, caller: Caller): number {
    const bytes = Buffer.byteLength(prepared.text) + 1
    const record: Waiting = { prepared, bytes, caller }
    record.checking = prepared.validation
      ?.then(() => {}, (error: unknown) => void (record.refusal = { error }))
      .then(() => void (record.checking = undefined))
    this.#waiting.push(record)
    this.#writing ??= this.#context.runInAsyncScope(() => this.#write())
    return bytes
  }

  /** Writes batches until no record waits. Never rejects. */
  async #write(): Promise<void> {
    while (this.#waiting.length > 0) {
      await callersDone()
      await this.#waiting[0]?.checking
      await this.#writeBatch(this.#take())
    }
    this.#writing = undefined
  }

  /** Takes the next records that are ready, up to the limits of a batch, and tells those that are refused. */
  #take(): Waiting[] {
    const { maxRecords, maxBytes } = this.#limits
    const batch: Waiting[] = []
    let sum = 0
    let taken = 0
    for (const record of this.#waiting) {
      const { bytes, caller, checking, refusal = caller.failure } = record
      const isFull = batch.length === maxRecords || (batch.length > 0 && sum + bytes > maxBytes)
      if (isFull || checking !== undefined) break
      taken += 1
      if (refusal !== undefined) {
        caller.reject(refusal.error, bytes)
        continue
      }
      batch.push(record)
      sum += bytes
    }
    this.#waiting.splice(0, taken)
    return batch
  }

  async #writeBatch(batch: readonly Waiting[]): Promise<void> {
    if (batch.length === 0) return
    try {
      const { first } = await this.#journal.appendAll(batch.map(({ prepared }) => prepared))
      batch.forEach(({ caller, bytes }, index) => caller.resolve(first + index, bytes))
    } catch (error) {
      for (const { caller, bytes } of batch) caller.reject(error, bytes)
    }
  }
}

/**
 * Resolves when all callers that run now have made their calls: those that the last batch has just
 * acknowledged, and those that go on for other reasons. Without it the first of them would be written
 * alone, and the others would wait for its fsync. No I/O and no timer comes in between.
 */
function callersDone(): Promise<void> {
  return new Promise((resolve) => nextTick(resolve))
}

function refuseCondition(options: unknown): void {
  const { expectedSequence } = fields(options, ['expectedSequence'])
  if (expectedSequence === undefined) return
  throw new TypeError('Expected no `expectedSequence` on a group, which decides itself when a record is written: use append of the journal')
}

/**
 * Accepts the records of a stream ahead of their fsync, up to two batches: one being written, one
 * being collected. So a single stream fills batches too.
 *
 * The journal gets a beginning of the stream. Once a record is refused, or its batch fails, no later
 * one is written, and the stream fails when every record that it has accepted is settled.
 */
class GroupSink<Input> implements Caller {
  failure: Failure | undefined
  readonly #add: (record: Input, caller: Caller) => number
  readonly #limits: Limits
  #controller: WritableStreamDefaultController | undefined
  /** Records that are not settled, and their bytes. */
  #records = 0
  #bytes = 0
  /** Called at a change. Only one call of a sink waits at a time. */
  #wake = (): void => {}

  constructor(add: (record: Input, caller: Caller) => number, limits: Limits) {
    this.#add = add
    this.#limits = limits
  }

  start(controller: WritableStreamDefaultController): void {
    this.#controller = controller
  }

  async write(record: Input): Promise<void> {
    try {
      this.#bytes += this.#add(record, this)
      this.#records += 1
    } catch (error) {
      await this.close()
      throw error
    }
    const { maxRecords, maxBytes } = this.#limits
    while (this.#records >= 2 * maxRecords || this.#bytes >= 2 * maxBytes) await this.#changed()
  }

  async close(): Promise<void> {
    await this.abort()
    if (this.failure !== undefined) throw this.failure.error
  }

  async abort(): Promise<void> {
    while (this.#records > 0) await this.#changed()
  }

  resolve(_sequence: number, bytes: number): void {
    this.#records -= 1
    this.#bytes -= bytes
    if (this.failure !== undefined && this.#records === 0) this.#controller?.error(this.failure.error)
    this.#wake()
  }

  reject(error: unknown, bytes: number): void {
    this.failure ??= { error }
    this.resolve(0, bytes)
  }

  #changed(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
    })
  }
}
