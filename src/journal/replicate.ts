import { setImmediate } from 'node:timers'

import { ChangeSignal, throwIfAborted } from '../async.ts'
import { MiniStoreError } from '../errors.ts'
import { boolean, fields, integer, isObject, shown, signalOption } from '../options.ts'
import { isPrepared } from '../schema.ts'
import type { Journal, JournalEntry } from './journal.ts'

/** Options of {@link replicate}. */
export interface ReplicateOptions {
  /**
   * Continues with new records once they are acknowledged, until `signal` is aborted or the source is
   * closed. With `false`, copies the records that the source has now and ends.
   *
   * @default true
   */
  readonly follow?: boolean | undefined
  /**
   * When it is aborted, no further batch is begun; the one under way is finished. A following call
   * then resolves, because this is its normal end. With `follow: false` the copy is incomplete, so the
   * call rejects with the signal's reason.
   */
  readonly signal?: AbortSignal | undefined
  /**
   * Deletes records from the source that are on stable storage in the target: store and forward. The
   * source must be open for writing. It is rotated each time another 8 MiB were copied, so up to that
   * much, and the rest of a segment, remains in it. Not for the journal of a state or a queue, whose
   * own compaction deletes records.
   *
   * @default false
   */
  readonly truncate?: boolean | undefined
  /**
   * Maximum number of records that are written with one fsync. A batch is smaller if no more records
   * are ready, and ends at 4 MiB of text.
   *
   * @default 1000; minimum 1
   */
  readonly batch?: number | undefined
}

/** What a call of {@link replicate} has copied. */
export interface ReplicationReport {
  /** Sequence number of the first record copied, or of the next one if none was copied. */
  readonly first: number
  /** Sequence number of the last record copied: the position of the target. */
  readonly last: number
  /** Number of records copied. */
  readonly copied: number
}

/** A batch ends at this many UTF-16 code units, so that memory is bounded for records of any size. */
const maxBatchLength = 4 * 1024 * 1024

/** With `truncate`, the source is rotated after this many UTF-16 code units. */
const lengthPerRotation = 8 * 1024 * 1024

/**
 * Copies one journal into another at the same sequence numbers, and follows it.
 *
 * The position is the target's `lastSequence`, so there is no checkpoint to keep: after a crash of
 * either side, call it again. The source may be a `MiniStore`, a reader of another process
 * (`MiniStore.read`) or any other {@link Journal}. The target must be open for writing, with the codec
 * of the source, and nothing else may write to it. Neither is closed.
 *
 * Lines are copied byte for byte, so no schema runs again. Only between journals of which one lacks
 * `preparedEntries` or `appendAll` are records read and appended instead.
 *
 * A target in which no record was ever written takes on the source's `id` and its first sequence
 * number (`adopt`). Any other target must have the same `id`, or neither journal has one. Where both
 * still hold the last record of the target, they must hold the same line.
 *
 * Each batch is durable in the target before the next is written. A crash leaves a target that is a
 * copy of the source up to some record. If either side fails, the call ends with that error after the
 * batch under way.
 *
 * ```ts
 * const source = await MiniStore.read('orders/journal.jsonl')
 * await using target = await MiniStore.open('/backup/orders/journal.jsonl')
 * await replicate(source, target, { signal })
 * ```
 *
 * @returns what was copied, once the signal is aborted, once the source is closed, or with
 *   `follow: false` once the target has every record that the source had.
 * @throws {MiniStoreError}
 *   - `ERR_MINISTORE_FOREIGN_JOURNAL` if the target holds records of another journal, if only one of
 *     the two has an `id`, or if both hold different lines as the last record of the target. Nothing
 *     is written.
 *   - `ERR_MINISTORE_SEQUENCE_GONE` if the source no longer has the next record.
 *   - `ERR_MINISTORE_SEQUENCE_CONFLICT` if the target has more records than the source, or if something
 *     else writes to the target.
 *   - Any error of reading the source or writing the target.
 * @throws {TypeError | RangeError} if a journal or an option is invalid, or if `truncate` is set and
 *   the source is not open for writing.
 */
export async function replicate(
  from: Journal<unknown, never>,
  to: Journal<unknown, never>,
  options?: ReplicateOptions,
): Promise<ReplicationReport> {
  const { follow, truncate, batch, signal } = settingsOf(options)
  assertJournals(from, to)
  let first = to.lastSequence + 1
  let last = first - 1
  try {
    throwIfAborted(signal)
    last = await begin(from, to, truncate)
    first = last + 1
    let untruncated = 0
    for await (const { entries, length } of batchesOf(from, to, { from: first, follow, batch, signal })) {
      last = await write(to, entries, last)
      if (!truncate) continue
      untruncated += length
      if (untruncated >= lengthPerRotation) {
        await from.rotate?.()
        untruncated = 0
      }
      await from.truncateBefore(last + 1)
    }
  } catch (error) {
    const isStopped = signal.aborted && error === signal.reason
    if (!isStopped || !follow) throw error
  }
  return { first, last, copied: last - first + 1 }
}

type AnyJournal = Journal<unknown, never>

function settingsOf(options: unknown): {
  readonly follow: boolean
  readonly truncate: boolean
  readonly batch: number
  readonly signal: AbortSignal
} {
  const { follow, truncate, batch, signal } = fields(options, ['signal', 'truncate', 'batch', 'follow'])
  return {
    follow: boolean('follow', follow, { default: true }),
    truncate: boolean('truncate', truncate, { default: false }),
    batch: integer('batch', batch, { default: 1000 }),
    signal: signalOption(signal) ?? new AbortController().signal,
  }
}

function assertJournals(from: unknown, to: unknown): void {
  for (const [name, value] of Object.entries({ from, to })) {
    const isJournal = isObject(value) && ['entries', 'append'].every((method) => typeof Reflect.get(value, method) === 'function')
    if (!isJournal) throw new TypeError(`Expected \`${name}\` to be a journal, as MiniStore.open or MiniStore.read return, got ${shown(value)}`)
  }
  if (from === to) throw new TypeError('Expected `to` to be another journal than `from`, got the same')
}

/**
 * Ensures that the target is, or becomes, a replica of the source that can be continued. Resolves with
 * the sequence number of the last record that it has.
 */
async function begin(from: AnyJournal, to: AnyJournal, truncate: boolean): Promise<number> {
  await from.refresh?.()
  await to.refresh?.()
  const isNew = to.lastSequence === 0
  const { id } = from
  const canAdopt = isNew && id !== undefined && to.adopt !== undefined
  if (!canAdopt && id !== to.id) throw foreign(from, to)
  const last = canAdopt ? from.firstSequence - 1 : to.lastSequence
  if (last > from.lastSequence) throw ahead(last, from.lastSequence)
  if (last + 1 < from.firstSequence) throw gone(last + 1, `its first record is ${from.firstSequence}`)
  await assertSameEnd(from, to, last)
  // Deletes what an earlier call has copied. A source that is not open for writing refuses this call,
  // before the target has changed.
  if (truncate) await from.truncateBefore(last + 1)
  if (canAdopt && (to.id !== id || to.firstSequence !== last + 1)) await to.adopt?.({ id, firstSequence: last + 1 })
  return last
}

/**
 * Compares the last record of the target with the source, if both still have it. They differ if the
 * source was restored from a backup, or lost unacknowledged records in a crash, and went on.
 */
async function assertSameEnd(from: AnyJournal, to: AnyJournal, last: number): Promise<void> {
  const there = await lineAt(to, last)
  const here = there === undefined ? undefined : await lineAt(from, last)
  if (here === undefined || here === there) return
  const message = `Record ${last}, the last of the target, is another in the source: the two have gone different ways`
  throw new MiniStoreError('ERR_MINISTORE_FOREIGN_JOURNAL', message, { sequence: last })
}

async function lineAt(journal: AnyJournal, sequence: number): Promise<string | undefined> {
  if (sequence < journal.firstSequence || journal.preparedEntries === undefined) return undefined
  const reader = journal.preparedEntries({ from: sequence, to: sequence }).getReader()
  try {
    return (await reader.read()).value?.record.text
  } finally {
    await leave(reader)
  }
}

/** Closes what a stream has open. If the stream has failed, that is done, and its error is known. */
async function leave(reader: ReadableStreamDefaultReader<unknown>): Promise<void> {
  await reader.cancel().catch(() => {})
}

/** Records that are ready to be written together, and the length of their lines, if they are lines. */
interface Batch {
  readonly entries: ReadonlyArray<JournalEntry<unknown>>
  readonly length: number
}

/**
 * Reads ahead while the caller writes, and gives whatever is ready then, up to the limits of a batch.
 * So a single new record is not delayed, and a backlog is written in full batches.
 *
 * An error of the source comes after the records before it. The source's files are closed when the
 * generator has ended.
 */
async function* batchesOf(
  source: AnyJournal,
  target: AnyJournal,
  options: { readonly from: number; readonly follow: boolean; readonly batch: number; readonly signal: AbortSignal },
): AsyncGenerator<Batch, void, void> {
  const { from, follow, batch, signal } = options
  // Lines can be copied only if both sides know them. Otherwise the target encodes the records.
  const lines = target.appendAll && source.preparedEntries?.({ from, follow })
  const stream: ReadableStream<JournalEntry<unknown>> = lines ?? source.entries({ from, follow })
  const reader = stream.getReader()
  const change = new ChangeSignal()
  const left = new AbortController()
  let entries: Array<JournalEntry<unknown>> = []
  let length = 0
  let end: { readonly error?: unknown } | undefined
  const isIdle = (): boolean => entries.length === 0 && end === undefined
  const isFull = (): boolean => entries.length >= batch || length >= maxBatchLength
  const read = async (): Promise<void> => {
    for (;;) {
      while (isFull()) await change.next(left.signal)
      const { done, value } = await reader.read()
      if (done) return
      entries.push(value)
      if (isPrepared(value.record)) length += value.record.text.length
      if (entries.length === 1 || isFull()) change.wake()
    }
  }
  const reading = read()
    .then(() => (end = {}), (error: unknown) => (end = { error }))
    .then(() => change.wake())
  try {
    for (;;) {
      while (isIdle()) await change.next(signal)
      // One turn of the event loop, in which everything that is ready arrives.
      if (!isFull() && end === undefined) await new Promise<void>((resolve) => setImmediate(resolve))
      throwIfAborted(signal)
      const ready = { entries, length }
      entries = []
      length = 0
      change.wake()
      if (ready.entries.length > 0) yield ready
      else if (end !== undefined && 'error' in end) throw end.error
      else if (end !== undefined) return
    }
  } finally {
    left.abort()
    await leave(reader)
    await reading
  }
}

/** Appends records right after `last`. Resolves with the last sequence number once they are durable. */
async function write(to: AnyJournal, entries: Batch['entries'], last: number): Promise<number> {
  const gap = entries.find(({ sequence }, index) => sequence !== last + 1 + index)
  if (gap !== undefined) throw gone(last + 1 + entries.indexOf(gap), `it gave ${gap.sequence} in its place`)
  const records = entries.map(({ record }) => record as never)
  if (to.appendAll !== undefined) return (await to.appendAll(records, { expectedSequence: last })).last
  let at = last
  for (const record of records) at = await to.append(record, { expectedSequence: at })
  return at
}

function foreign(from: AnyJournal, to: AnyJournal): MiniStoreError {
  const [here, there] = [from, to].map(({ id }) => id ?? 'none')
  const hint = from.id === undefined ? '. A journal without one gets one when it is opened for writing' : ''
  const message = `Expected the target to be a replica of the source: the source has the id ${here}, the target ${there}${hint}`
  return new MiniStoreError('ERR_MINISTORE_FOREIGN_JOURNAL', message)
}

function ahead(expectedSequence: number, sequence: number): MiniStoreError {
  const message =
    `The target is at sequence number ${expectedSequence}, ahead of the source, which is at ${sequence}: ` +
    'the source lost records, or something else wrote to the target'
  return new MiniStoreError('ERR_MINISTORE_SEQUENCE_CONFLICT', message, { expectedSequence, sequence })
}

function gone(sequence: number, why: string): MiniStoreError {
  const message = `The source no longer has record ${sequence}, the next of the target: ${why}`
  return new MiniStoreError('ERR_MINISTORE_SEQUENCE_GONE', message, { sequence })
}
