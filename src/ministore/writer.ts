import { type Channel, channel, type TracingChannel, tracingChannel } from 'node:diagnostics_channel'
import { clearInterval, setInterval } from 'node:timers'

import PQueue from 'p-queue'

import { addInContext } from '../async.ts'
import { ioError, isInstance, isMiniStoreError, messageOf, MiniStoreError, type MiniStoreErrorCode } from '../errors.ts'
import { isOutOfSpace, removeIfPresent, writeFully } from '../fs/durable.ts'
import type { FileSystem } from '../fs/file-system.ts'
import type { WriterLock } from '../fs/lock.ts'
import {
  extendPrefix, type JournalFiles, maxSegmentNumber, maxSequence, samePrefix, type SegmentPrefix, writeSealIfRoom,
} from './format.ts'
import type { RecoveredJournal, RecoveryReport } from './recovery.ts'
import { type ActiveSegment, orPoison, PoisoningError, rotateSegment } from './rotation.ts'
import { isSameSegment, type JournalTail, type JournalView, type Segment } from './segments.ts'
import type { WriterSettings } from './settings.ts'

type Limits = Pick<WriterSettings, 'maxBytesPerSegment' | 'maxSegments'>

/**
 * The one who writes: everything that changes a journal goes through its queue, one at a time, in call order.
 *
 * `open` → (`poisoned`) → `closing` → `closed`. Its state changes only inside the queue, but for `close`.
 */
export class JournalWriter {
  readonly files: JournalFiles
  readonly #lock: WriterLock
  /** Changes names only while they lead to what {@link #lock} holds. */
  readonly #fs: FileSystem
  readonly #limits: Limits
  readonly #queue = new PQueue({ concurrency: 1 })
  #sealed: readonly Segment[]
  #active: ActiveSegment
  /** What the seal on disk says; undefined when there is none. */
  #seal: SegmentPrefix | undefined
  readonly #soundness: Soundness
  #isClosing = false
  #isClosed = false
  readonly #change = new ChangeSignal()
  /** Settles when the names on the disk are those of the view again; undefined while they are. */
  #renaming: Promise<unknown> | undefined

  constructor(files: JournalFiles, lock: WriterLock, journal: RecoveredJournal, limits: Limits) {
    this.#lock = lock
    this.#fs = lock.fileSystem
    this.files = files
    this.#limits = limits
    this.#soundness = new Soundness(files.path)
    this.#sealed = journal.sealed
    this.#active = journal.active
    this.#seal = journal.seal
  }

  get firstSequence(): number {
    return (this.#sealed[0] ?? this.#active.segment).firstSequence
  }

  get lastSequence(): number {
    return this.#active.segment.firstSequence + this.#active.prefix.records - 1
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  /** Whether it is open and not poisoned: then its view is how the journal stands. */
  get isSound(): boolean {
    this.#noticeMove()
    return !this.#isClosed && this.#soundness.isSound
  }

  /** How the journal stands, as far as it is acknowledged: for readers in this process. */
  view(): JournalView {
    const { segment, prefix } = this.#active
    const checkpoints = this.#seal === undefined ? [prefix] : [this.#seal, prefix]
    return {
      segments: [...this.#sealed, segment],
      tail: { segment, bytes: prefix.bytes, checkpoints, isAcknowledged: true },
    }
  }

  /** Whether the journal still ends where a view says. */
  isAt(tail: JournalTail | undefined): boolean {
    const { segment, prefix } = this.#active
    return tail !== undefined && tail.bytes === prefix.bytes && isSameSegment(tail.segment, segment)
  }

  /** Resolves at the next acknowledged append, rotation, deletion, poisoning or close; rejects when aborted. */
  changed(signal: AbortSignal): Promise<void> {
    return this.#change.next(signal)
  }

  /** Resolves when no rotation or deletion is under way, which have names on the disk that no view has. */
  async namesSettled(): Promise<void> {
    while (this.#renaming !== undefined) await this.#renaming.catch(() => {})
  }

  /** @throws {MiniStoreError} unless it is open and sound. */
  assertUsable(): void {
    const { path } = this.files
    if (this.#isClosing) throw new MiniStoreError('ERR_MINISTORE_CLOSED', `The store of ${path} is closed`, { path })
    this.assertSound()
  }

  assertSound(): void {
    this.#noticeMove()
    this.#soundness.assert()
  }

  /**
   * Appends lines, one write and one fsync, and resolves with the sequence number of the last.
   *
   * @param validation awaited when the lines' turn has come; when it rejects, nothing is written.
   */
  append(lines: Buffer, records: number, validation?: Promise<unknown>): Promise<number> {
    // Once more: the record's own toJSON, its schema or its codec may have closed the store.
    this.assertUsable()
    const context: AppendTrace = { path: this.files.path, bytes: lines.length, records }
    return addInContext(this.#queue, () =>
      traced(appendChannel, context, async () => {
        if (validation !== undefined) await validation
        this.assertSound()
        this.#assertNumbersLeft(records)
        const { prefix } = this.#active
        const isFull = prefix.records > 0 && prefix.bytes + lines.length > this.#limits.maxBytesPerSegment
        if (isFull) await this.#rotate()
        await this.#write(lines, records)
        context.sequence = this.lastSequence
        return context.sequence
      }),
    )
  }

  /** Resolves with the last sequence number there is when all that was called before is done. */
  settled(): Promise<number> {
    return addInContext(this.#queue, () => this.lastSequence)
  }

  /** Seals the active segment, unless it is empty, and begins the next one. */
  rotate(): Promise<void> {
    return addInContext(this.#queue, async () => {
      this.assertSound()
      if (this.#active.prefix.records > 0) await this.#rotate()
    })
  }

  /** Deletes the sealed segments all of whose records are below `sequence`, oldest first. */
  truncateBefore(sequence: number): Promise<void> {
    return addInContext(this.#queue, async () => {
      this.assertSound()
      if (sequence > this.lastSequence + 1) {
        const most = this.lastSequence + 1
        throw new RangeError(`Expected a sequence number of at most ${most}, the next one to be given, got ${sequence}`)
      }
      const isCovered = (): boolean => (this.#sealed[1] ?? this.#active.segment).firstSequence <= sequence
      if (this.#sealed.length === 0 || !isCovered()) return
      // Segments of version 0.1 are counted from their neighbours: before the first goes, one must say its number.
      const isPinned = [...this.#sealed.slice(1), this.#active.segment].some(({ header }) => header.sequence !== undefined)
      if (!isPinned) await this.#rotate()
      while (this.#sealed.length > 0 && isCovered()) await this.#deleteOldest()
    })
  }

  /** Waits for what is queued, seals the active segment and closes its file. Never rejects before that is done. */
  async close(): Promise<void> {
    this.#isClosing = true
    await this.#queue.onIdle()
    try {
      if (this.isSound) await this.#sealActive()
    } finally {
      this.#isClosed = true
      this.#change.wake()
      await this.#active.file.close()
    }
  }

  /** Seals what recovery has found. When that fails the writer is done with: its file is closed. */
  async sealOnOpen(): Promise<void> {
    try {
      await this.#sealActive()
    } catch (error) {
      await this.#active.file.close().catch(() => {})
      throw error
    }
  }

  /** Writes the seal, unless there is one that says the same. */
  async #sealActive(): Promise<void> {
    const { prefix, file } = this.#active
    if (this.#seal !== undefined && samePrefix(this.#seal, prefix)) return
    const writing = async (): Promise<boolean> =>
      writeSealIfRoom(this.#fs, this.files.seal, { prefix, access: await file.stat() })
    if (await this.#guard('seal', writing())) this.#seal = prefix
  }

  async #write(lines: Buffer, records: number): Promise<void> {
    const { file, prefix, segment } = this.#active
    try {
      // Answered without a promise when the bytes went straight to the page cache.
      const writing = writeFully(file, lines, prefix.bytes)
      if (writing !== undefined) await writing
    } catch (error) {
      throw await this.#rollBack(error)
    }
    try {
      await file.dataSync()
    } catch (error) {
      this.#poison('fsync', error)
      // The record stays visible to whoever opens the journal next on this system, and their fsync would succeed without
      // writing it: the kernel takes its pages for clean. Cut off it cannot pass for durable. Should the cut fail or not
      // last, the outcome is as unknown as it is.
      await file.truncate(prefix.bytes).catch(() => {})
      const sequence = this.lastSequence + 1
      const message = `The fsync of record ${sequence} failed (${messageOf(error)}): it may or may not be on the disk`
      const context = { path: this.files.path, segment: segment.name, sequence, cause: error }
      throw new MiniStoreError('ERR_MINISTORE_OUTCOME_UNKNOWN', message, context)
    }
    this.#active = { segment, file, prefix: extendPrefix(prefix, lines, records) }
    this.#change.wake()
  }

  /** Cuts what a failed write may have left, so that the next append finds the file as the last one left it. */
  async #rollBack(cause: unknown): Promise<MiniStoreError> {
    const { file, prefix, segment } = this.#active
    const context = { path: this.files.path, segment: segment.name }
    try {
      await file.truncate(prefix.bytes)
      await file.sync()
    } catch (error) {
      this.#poison('roll back a failed write', error)
      const message = `A write failed (${messageOf(cause)}) and could not be rolled back (${messageOf(error)})`
      return new MiniStoreError('ERR_MINISTORE_OUTCOME_UNKNOWN', message, { ...context, cause })
    }
    const hint = isOutOfSpace(cause) ? ' (no space left: disk, quota or largest file)' : ''
    return ioError(`write the record${hint}; nothing of it is left and the store is usable`, cause, context)
  }

  /** Sequence numbers must not run out in the middle of a write: beyond the last one there are duplicates. */
  #assertNumbersLeft(records: number): void {
    const left = maxSequence - this.lastSequence
    if (records <= left) return
    throw new RangeError(`Expected at most ${left} more record(s), got ${records}: sequence numbers end at ${maxSequence}`)
  }

  async #rotate(): Promise<void> {
    // The next header says the number of the next record.
    this.#assertNumbersLeft(1)
    if (this.#sealed.at(-1)?.number === maxSegmentNumber) {
      throw new RangeError(`Expected a segment number of at most ${maxSegmentNumber} for the next segment: they are used up`)
    }
    const { file } = this.#active
    await this.#whileRenaming(() => this.#sealAndBegin())
    // Every byte of it is durable, so nothing that closing could report would matter.
    await file.close().catch(() => {})
    while (this.#sealed.length + 1 > this.#limits.maxSegments) await this.#deleteOldest()
  }

  async #sealAndBegin(): Promise<void> {
    const from = this.#active
    const number = (this.#sealed.at(-1)?.number ?? 0) + 1
    const context = {
      path: this.files.path,
      segment: this.files.sealedName(number),
      sequence: from.segment.firstSequence + from.prefix.records,
    }
    this.#seal = undefined // Removed first, and gone even when the rest fails.
    await traced(rotateChannel, context, async () => {
      const rotating = rotateSegment(this.#fs, this.files, { from, number, lock: this.#lock })
      const { sealed, active } = await this.#guard('rotate', rotating)
      this.#sealed = [...this.#sealed, sealed]
      this.#active = active
    })
    this.#change.wake()
  }

  #deleteOldest(): Promise<void> {
    return this.#whileRenaming(async () => {
      const [oldest, ...kept] = this.#sealed
      if (oldest === undefined) return
      // One that somebody else has removed already is as good as deleted.
      await this.#guard(`delete ${oldest.name}`, removeIfPresent(this.#fs, oldest.path))
      this.#sealed = kept
      this.#change.wake()
      // Durable before the next goes, or a crash could leave a gap.
      await this.#guard(`delete ${oldest.name}`, orPoison(this.#fs.syncDirectory(this.files.directory)))
    })
  }

  /** Keeps readers from looking while the names on the disk are none that a view has. */
  async #whileRenaming(task: () => Promise<void>): Promise<void> {
    this.#renaming = task()
    try {
      await this.#renaming
    } finally {
      this.#renaming = undefined
    }
  }

  /** Turns a failed step into the error for the caller, and poisons when the state on disk is unknown. */
  async #guard<T>(doing: string, step: Promise<T>): Promise<T> {
    try {
      return await step
    } catch (error) {
      const isPoisoning = isInstance(error, PoisoningError)
      const cause = isPoisoning ? error.cause : error
      const isMoved = isMiniStoreError(cause, 'ERR_MINISTORE_MOVED')
      if (isPoisoning || isMoved) this.#poison(doing, cause)
      if (isMoved) throw cause
      this.assertSound()
      throw ioError(doing, error, { path: this.files.path })
    }
  }

  /** What keeps files beside the journal, snapshots for one, may find before the writer that it was moved. */
  #noticeMove(): void {
    if (this.#lock.moved !== undefined && this.#soundness.isSound) this.#poison('go on', this.#lock.moved)
  }

  #poison(doing: string, cause: unknown): void {
    this.#soundness.poison(doing, cause)
    this.#change.wake()
  }
}

/** Whether a store may still write: until a failure leaves the state on disk unknown, and never again after it. */
export class Soundness {
  readonly #path: string
  #poison: MiniStoreError | undefined

  constructor(path: string) {
    this.#path = path
  }

  get isSound(): boolean {
    return this.#poison === undefined
  }

  /** @throws {MiniStoreError} `ERR_MINISTORE_POISONED` once it is lost, or `…_MOVED`, where that was the reason. */
  assert(): void {
    if (this.#poison === undefined) return
    throw this.#error(this.#poison.code, `Only close() works: ${this.#poison.message}`, this.#poison)
  }

  /** Ends it. @param doing what failed, as in "could not …" */
  poison(doing: string, cause: unknown): void {
    const isMoved = isMiniStoreError(cause, 'ERR_MINISTORE_MOVED')
    const why = isMoved ? '' : ', and what is on the disk is unknown until it is opened anew'
    const code = isMoved ? 'ERR_MINISTORE_MOVED' : 'ERR_MINISTORE_POISONED'
    this.#poison = this.#error(code, `could not ${doing} (${messageOf(cause)})${why}`, cause)
    poisonChannel.publish({ path: this.#path, error: this.#poison })
  }

  #error(code: MiniStoreErrorCode, message: string, cause: unknown): MiniStoreError {
    return new MiniStoreError(code, message, { path: this.#path, cause })
  }
}

/** The longest time that a timer of Node's takes. */
const longestMs = 2 ** 31 - 1

/** Wakes those who wait for a change. While there are any the process stays alive. */
export class ChangeSignal {
  readonly #waiting = new Set<() => void>()
  #keepAlive: NodeJS.Timeout | undefined

  /** Resolves at the next change; rejects with the signal's reason when that is aborted first. */
  next(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiting.delete(onChange)
        this.#endIfIdle()
        reject(signal.reason)
      }
      const onChange = (): void => {
        signal.removeEventListener('abort', onAbort)
        resolve()
      }
      if (signal.aborted) return onAbort()
      signal.addEventListener('abort', onAbort, { once: true })
      this.#waiting.add(onChange)
      // A promise alone holds no process: it would end in the midst of the wait.
      this.#keepAlive ??= setInterval(() => {}, longestMs)
    })
  }

  wake(): void {
    for (const onChange of this.#waiting) onChange()
    this.#waiting.clear()
    this.#endIfIdle()
  }

  #endIfIdle(): void {
    if (this.#waiting.size > 0) return
    clearInterval(this.#keepAlive)
    this.#keepAlive = undefined
  }
}

/** Context of the tracing channel `ministore:append`: one append or one `appendAll`. */
export interface AppendTrace {
  readonly path: string
  /** Bytes written, line feeds included. */
  readonly bytes: number
  readonly records: number
  /** Sequence number of the last record; set when the append is durable. */
  sequence?: number
}

/** Context of the tracing channel `ministore:rotate`. */
export interface RotateTrace {
  readonly path: string
  /** Name of the segment that is sealed. */
  readonly segment: string
  /** Sequence number of the first record of the next segment. */
  readonly sequence: number
}

/** Context of the tracing channel `ministore:recover`. */
export interface RecoverTrace {
  readonly path: string
  /** Set when recovery has succeeded. */
  report?: RecoveryReport
}

/** Message of the channel `ministore:poison`. */
export interface PoisonMessage {
  readonly path: string
  readonly error: MiniStoreError
}

export const appendChannel: TracingChannel<unknown, AppendTrace> = tracingChannel('ministore:append')
export const rotateChannel: TracingChannel<unknown, RotateTrace> = tracingChannel('ministore:rotate')
export const recoverChannel: TracingChannel<unknown, RecoverTrace> = tracingChannel('ministore:recover')
export const poisonChannel: Channel<unknown, PoisonMessage> =
  channel('ministore:poison') as Channel<unknown, PoisonMessage>

/**
 * Runs a task on a tracing channel; without subscribers it is a plain call.
 *
 * What the task gives becomes part of the message, so it is a number or nothing: at anything that `JSON.stringify` throws at,
 * a subscriber that logs would end the process, since Node makes an uncaught exception of what a subscriber throws.
 */
export function traced<T extends number | void, Context extends object>(
  tracing: TracingChannel<unknown, Context>,
  context: Context,
  task: () => Promise<T>,
): Promise<T> {
  return tracing.hasSubscribers ? tracing.tracePromise(task, context) : task()
}
