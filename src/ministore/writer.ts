/**
 * Serializes every change to a journal.
 *
 * **Invariant.** Appends, rotations and deletions run in one queue, one at a time and in call
 * order. The sequence number of a record is returned only after the record is on stable storage.
 * After a failure that leaves the state on disk unknown, the writer is poisoned: it only closes.
 */
import { type TracingChannel, tracingChannel } from 'node:diagnostics_channel'
import { performance } from 'node:perf_hooks'

import PQueue from 'p-queue'

import { addInContext, ChangeSignal, traced } from '../async.ts'
import { foreignJournal, hasCode, ioError, isInstance, messageOf, MiniStoreError, poisonedBy, sequenceConflict } from '../errors.ts'
import { RecentBytes } from '../fs/bytes.ts'
import { removeIfPresent } from '../fs/durable.ts'
import type { FileSystem } from '../fs/file-system.ts'
import type { WriterLock } from '../fs/lock.ts'
import { type ActiveSegment, orPoison, PoisoningError } from './active-segment.ts'
import {
  idOf, type JournalFiles, maxSegmentNumber, maxSequence, isSameCheckpoint, type Checkpoint, writeSealIfRoom,
} from './format.ts'
import type { EncodedRecords } from '../journal/record-codec.ts'
import type { RecoveredJournal } from './recovery.ts'
import {
  newJournalId, poisonChannel, replaceEmptySegment, rotateChannel, rotateSegment, SealedSegments,
} from './rotation.ts'
import { isSameSegment, type JournalTail, type JournalView } from './segments.ts'
import type { WriterSettings } from './settings.ts'

type Limits = Pick<WriterSettings, 'maxBytesPerSegment' | 'maxSegments' | 'preallocate'>

/**
 * Changes the journal of an open store.
 *
 * Lifecycle: `open` → (`poisoned`) → `closing` → `closed`. After `sealOnOpen`, only tasks in the
 * queue and `close` change the segments and the seal.
 */
export class JournalWriter {
  readonly files: JournalFiles
  readonly #lock: WriterLock
  /** Changes names only while the directory and the files held by {@link #lock} are in place. */
  readonly #fs: FileSystem
  readonly #limits: Limits
  readonly #queue = new PQueue({ concurrency: 1 })
  readonly #sealed: SealedSegments
  #active: ActiveSegment
  #id: string | undefined
  /** The contents of the seal on disk; undefined if there is no seal. */
  #seal: Checkpoint | undefined
  /** Why the writer can no longer write. Once set, it stays: only `close()` works. */
  #poisoned: MiniStoreError | undefined
  #isClosing = false
  #isClosed = false
  readonly #change = new ChangeSignal()
  /** The view last given, for all followers, and what it was made of. */
  #last: { readonly view: JournalView; readonly acknowledged: Checkpoint; readonly seal: Checkpoint | undefined } | undefined
  /** The bytes last acknowledged, by segment. Kept from the first wait for a change on. */
  readonly recent: RecentBytes = new RecentBytes()
  /** The rotation or deletion in progress. Until it settles, names on disk may differ from the view. */
  #renaming: Promise<unknown> | undefined

  constructor(files: JournalFiles, lock: WriterLock, journal: RecoveredJournal, limits: Limits) {
    this.#lock = lock
    this.#fs = lock.fileSystem
    this.files = files
    this.#limits = limits
    this.#sealed = new SealedSegments(journal.sealed)
    this.#active = journal.active
    this.#id = idOf([...journal.sealed, journal.active.segment])
    this.#seal = journal.seal
  }

  /** The identity in the active segment; undefined if recovery could not give an old journal one. */
  get id(): string | undefined {
    return this.#active.segment.header.id
  }

  get firstSequence(): number {
    return (this.#sealed.oldest ?? this.#active.segment).firstSequence
  }

  get lastSequence(): number {
    return this.#active.nextSequence - 1
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  /** Whether the writer is neither closed nor poisoned. Only then is its view current. */
  get isViewCurrent(): boolean {
    this.#noticeMove()
    return !this.#isClosed && this.#poisoned === undefined
  }

  /** The acknowledged part of the journal, for readers in this process. */
  view(): JournalView {
    const { segment, acknowledged } = this.#active
    const segments = this.#sealed.followedBy(segment)
    const last = this.#last
    if (last?.view.segments === segments && last.acknowledged === acknowledged && last.seal === this.#seal) return last.view
    const checkpoints = this.#seal === undefined ? [acknowledged] : [this.#seal, acknowledged]
    const view = { segments, tail: { segment, bytes: acknowledged.bytes, checkpoints, isAcknowledged: true } }
    this.#last = { view, acknowledged, seal: this.#seal }
    return view
  }

  /** Whether the journal still ends at the given tail of a view. */
  isAt(tail: JournalTail | undefined): boolean {
    const { segment, acknowledged } = this.#active
    return tail !== undefined && tail.bytes === acknowledged.bytes && isSameSegment(tail.segment, segment)
  }

  /**
   * Resolves at the next acknowledged append, rotation, deletion, poisoning or close. Rejects with
   * the signal's reason if the signal is aborted first.
   */
  changed(signal: AbortSignal): Promise<void> {
    this.recent.keep()
    return this.#change.nextFor(signal)
  }

  /** Calls back once, when {@link changed} would resolve. */
  onceChanged(onChange: () => void): void {
    this.recent.keep()
    this.#change.once(onChange)
  }

  /** Takes back a call of {@link onceChanged}. */
  forget(onChange: () => void): void {
    this.#change.forget(onChange)
  }

  /**
   * Resolves when no rotation or deletion is in progress. Until it resolves, the directory may hold
   * file names that no view lists. Undefined if there is nothing to wait for. Never rejects.
   */
  namesSettled(): Promise<void> | undefined {
    return this.#renaming?.catch(() => {}).then(() => this.namesSettled())
  }

  /**
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED` if the writer is closing or closed, otherwise
   *   as {@link assertNotPoisoned}.
   */
  assertUsable(): void {
    const { path } = this.files
    if (this.#isClosing) throw new MiniStoreError('ERR_MINISTORE_CLOSED', `The store of ${path} is closed`, { path })
    this.assertNotPoisoned()
  }

  /**
   * @throws {MiniStoreError} `ERR_MINISTORE_POISONED` or `ERR_MINISTORE_MOVED` if an earlier
   *   failure has made the writer unusable.
   */
  assertNotPoisoned(): void {
    this.#noticeMove()
    if (this.#poisoned !== undefined) throw poisonedBy(this.#poisoned)
  }

  /**
   * Appends lines with one write and one fsync. Resolves with the sequence number of the last
   * record once all of them are on stable storage. Rotates first if the active segment is full.
   *
   * Calls may overlap; they are written in call order. A crash before the promise resolves may
   * leave a prefix of the records in the journal: none, some or all of them.
   *
   * @param records If their `validation` rejects when their turn has come, nothing is written.
   * @param expected The last sequence number that the caller expects when their turn has come.
   * @throws {MiniStoreError} `ERR_MINISTORE_CLOSED`, `…_POISONED` or `…_MOVED` if the writer is
   *   unusable, synchronously if that is known at the call. `…_SEQUENCE_CONFLICT` if the last sequence
   *   number is not the expected one. `…_IO` if a step failed and no record
   *   was written. `…_OUTCOME_UNKNOWN` if the fsync or the rollback of a failed write failed; the
   *   writer is then poisoned.
   * @throws {RangeError} if the sequence numbers or segment numbers are used up.
   */
  append({ lines, count, validation }: EncodedRecords, expected?: number): Promise<number> {
    // The caller has already checked this, but the record's `toJSON`, its schema or its codec may
    // have closed the store since.
    this.assertUsable()
    const calledMs = performance.now()
    return addInContext(this.#queue, () => {
      const { path } = this.files
      const context: AppendTrace = { path, bytes: lines.length, records: count, waitMs: performance.now() - calledMs }
      return traced(appendChannel, context, async () => {
        if (validation !== undefined) await validation
        this.assertNotPoisoned()
        this.#refuseConflict(expected)
        this.#assertNumbersLeft(count)
        const { acknowledged } = this.#active
        const isFull = acknowledged.records > 0 && acknowledged.bytes + lines.length > this.#limits.maxBytesPerSegment
        if (isFull) await this.#rotate()
        const { segment, acknowledged: { bytes } } = this.#active
        try {
          await this.#active.append(lines, count, { path, ...this.#limits })
        } catch (error) {
          throw this.#refusal('append', error)
        }
        this.recent.add(segment, lines, bytes)
        this.#change.wakeSoon()
        return (context.sequence = this.lastSequence)
      })
    })
  }

  /**
   * Waits for all earlier calls and resolves with the last sequence number at that moment, if it is
   * the expected one.
   */
  idle(expected?: number): Promise<number> {
    return addInContext(this.#queue, () => {
      this.#refuseConflict(expected)
      return this.lastSequence
    })
  }

  /** Seals the active segment and begins the next one. Does nothing if the active one is empty. */
  rotate(): Promise<void> {
    return addInContext(this.#queue, async () => {
      this.assertNotPoisoned()
      if (this.#active.acknowledged.records > 0) await this.#rotate()
    })
  }

  /**
   * Deletes the sealed segments in which every record has a sequence number below `sequence`. The
   * oldest goes first, and each deletion is durable before the next begins.
   *
   * @throws {RangeError} if `sequence` is greater than the next sequence number.
   */
  truncateBefore(sequence: number): Promise<void> {
    return addInContext(this.#queue, async () => {
      this.assertNotPoisoned()
      if (sequence > this.lastSequence + 1) {
        const most = this.lastSequence + 1
        throw new RangeError(`Expected \`sequence\` to be at most ${most}, the next sequence number, got ${sequence}`)
      }
      const isCovered = (): boolean => (this.#sealed.second ?? this.#active.segment).firstSequence <= sequence
      if (this.#sealed.length === 0 || !isCovered()) return
      // Headers of version 0.1 hold no sequence number, so their records are counted from a
      // neighbour. If no header that stays holds one, a rotation writes one before the first segment
      // is deleted.
      if (this.#active.segment.header.sequence === undefined) {
        const { segments } = this.view()
        const stay = segments.slice(segments.findLastIndex(({ firstSequence }) => firstSequence <= sequence))
        if (stay.every(({ header }) => header.sequence === undefined)) await this.#rotate()
      }
      while (this.#sealed.length > 0 && isCovered()) await this.#deleteOldest()
    })
  }

  /** As `Journal.adopt`, with checked values. */
  adopt({ id, firstSequence }: { readonly id: string; readonly firstSequence: number }): Promise<void> {
    return addInContext(this.#queue, async () => {
      this.assertNotPoisoned()
      const { files, lastSequence } = this
      if (id === this.#id && (lastSequence > 0 || firstSequence === this.firstSequence)) return
      if (lastSequence > 0) throw foreignJournal(`${files.path} has had records as the journal ${this.#id}`, files.path)
      // Only segments of version 0.1 are sealed without a record.
      while (this.#sealed.length > 0) await this.#deleteOldest()
      const from = this.#active
      const start = { sequence: firstSequence, id, previousCrc32: undefined, lock: this.#lock }
      this.#seal = undefined // As in a rotation.
      await this.#whileRenaming(async () => {
        this.#active = await this.#guard('adopt', replaceEmptySegment(this.#fs, files, from, start))
        this.#id = id
        this.#change.wake()
      })
      await from.file.close().catch(() => {}) // It has no record, so an error changes nothing.
    })
  }

  /**
   * Refuses further calls, waits for the queued ones, seals the active segment and closes its file.
   * A poisoned writer writes no seal. If sealing fails, the file is closed before this rejects.
   */
  async close(): Promise<void> {
    this.#isClosing = true
    await this.#queue.onIdle()
    try {
      if (this.isViewCurrent) {
        await this.#guard('cut off the padding', this.#active.cutPadding({ isLast: true }))
        await this.#sealActive()
      }
    } finally {
      this.#isClosed = true
      this.#change.wake()
      await this.#active.file.close()
    }
  }

  /** Seals what recovery has found. If that fails, closes the file; the writer is then unusable. */
  async sealOnOpen(): Promise<void> {
    try {
      await this.#sealActive()
    } catch (error) {
      await this.#active.file.close().catch(() => {})
      throw error
    }
  }

  /** Writes the seal, unless the seal on disk already says the same. */
  async #sealActive(): Promise<void> {
    const { acknowledged, file } = this.#active
    if (this.#seal !== undefined && isSameCheckpoint(this.#seal, acknowledged)) return
    const writing = async (): Promise<boolean> =>
      writeSealIfRoom(this.#fs, this.files.seal, { checkpoint: acknowledged, access: await file.stat() })
    if (await this.#guard('seal', writing())) this.#seal = acknowledged
  }

  #refuseConflict(expected: number | undefined): void {
    const { lastSequence: sequence, files: { path } } = this
    if (expected === undefined || expected === sequence) return
    throw sequenceConflict(`the journal ${path}`, { path, expectedSequence: expected, sequence })
  }

  /** Refuses the records before the write, because beyond {@link maxSequence} two would share a number. */
  #assertNumbersLeft(records: number): void {
    const left = maxSequence - this.lastSequence
    if (records <= left) return
    throw new RangeError(`Expected at most ${left} more records, got ${records}: sequence numbers end at ${maxSequence}`)
  }

  async #rotate(): Promise<void> {
    // The header of the next segment holds the sequence number of its first record.
    this.#assertNumbersLeft(1)
    const number = this.#sealed.nextNumber
    if (number > maxSegmentNumber) {
      throw new RangeError(`Expected a segment number of at most ${maxSegmentNumber}, but all of them are used`)
    }
    const from = this.#active
    await this.#guard('cut off the padding', from.cutPadding())
    const context = { path: this.files.path, segment: this.files.sealedName(number), sequence: this.lastSequence + 1 }
    const id = this.#id ?? newJournalId()
    // The rotation removes the seal first, and the seal stays removed if a later step fails.
    this.#seal = undefined
    const rotate = async (): Promise<void> => {
      const rotating = rotateSegment(this.#fs, this.files, { from, number, id, lock: this.#lock })
      const { sealed, active } = await this.#guard('rotate', rotating)
      this.#sealed.add(sealed)
      this.#active = active
      this.#id = id
      this.#change.wake()
    }
    await this.#whileRenaming(() => traced(rotateChannel, context, rotate))
    // Every byte of the sealed file is durable, so an error on closing it changes nothing.
    await from.file.close().catch(() => {})
    while (this.#sealed.length + 1 > this.#limits.maxSegments) await this.#deleteOldest()
  }

  #deleteOldest(): Promise<void> {
    return this.#whileRenaming(async () => {
      const { oldest } = this.#sealed
      if (oldest === undefined) return
      // A file that is already missing counts as deleted.
      await this.#guard(`delete ${oldest.name}`, removeIfPresent(this.#fs, oldest.path))
      this.#sealed.removeOldest()
      this.#change.wake()
      // Made durable before the next deletion. Otherwise a crash could undo this deletion but keep
      // the next one, which would leave a gap.
      await this.#guard(`delete ${oldest.name}`, orPoison(this.#fs.syncDirectory(this.files.directory)))
    })
  }

  /** Runs a task that renames or deletes files. {@link namesSettled} waits until the task ends. */
  async #whileRenaming(task: () => Promise<void>): Promise<void> {
    this.#renaming = task()
    try {
      await this.#renaming
    } finally {
      this.#renaming = undefined
    }
  }

  /** Waits for a step and turns its failure into the error for the caller. */
  async #guard<T>(doing: string, step: Promise<T>): Promise<T> {
    try {
      return await step
    } catch (error) {
      throw this.#refusal(doing, error)
    }
  }

  /**
   * The error for the caller of a failed step. Poisons the writer if the failure leaves the state on
   * disk unknown or shows that the journal was moved.
   */
  #refusal(doing: string, error: unknown): unknown {
    const isPoisoning = isInstance(error, PoisoningError)
    const cause = isPoisoning ? error.cause : error
    const isMoved = hasCode(cause, 'ERR_MINISTORE_MOVED')
    if (isPoisoning || isMoved) this.#poison((isPoisoning ? error.doing : undefined) ?? doing, cause)
    if (isMoved) return cause
    if (isPoisoning && error.refusal !== undefined) return error.refusal
    if (this.#poisoned !== undefined) return poisonedBy(this.#poisoned)
    return ioError(doing, error, { path: this.files.path })
  }

  /**
   * Poisons the writer once its lock has found that the journal was moved. Code that keeps files
   * beside the journal, such as snapshots, uses the same lock and may find this first.
   */
  #noticeMove(): void {
    if (this.#lock.moved !== undefined && this.#poisoned === undefined) this.#poison('continue', this.#lock.moved)
  }

  /**
   * Ends all writing and publishes the error on the channel `ministore:poison`.
   *
   * @param doing The action that failed, worded to complete "could not …".
   */
  #poison(doing: string, cause: unknown): void {
    const isMoved = hasCode(cause, 'ERR_MINISTORE_MOVED')
    const unknown = isMoved ? '' : '. What is on the disk is unknown. Close the store and open the journal again'
    const code = isMoved ? 'ERR_MINISTORE_MOVED' : 'ERR_MINISTORE_POISONED'
    const { path } = this.files
    this.#poisoned = new MiniStoreError(code, `could not ${doing} (${messageOf(cause)})${unknown}`, { path, cause })
    poisonChannel.publish({ path, error: this.#poisoned })
    this.#change.wake()
  }
}

/** Context of the tracing channel `ministore:append`, for one `append` or one `appendAll`. */
export interface AppendTrace {
  /** Absolute path of the journal. */
  readonly path: string
  /** Number of bytes to write, including line feeds. */
  readonly bytes: number
  /** Number of records. */
  readonly records: number
  /** Milliseconds from the call until its turn, in which earlier calls wrote. */
  readonly waitMs: number
  /** Sequence number of the last record. Set once the append is durable. */
  sequence?: number
}

const appendChannel: TracingChannel<unknown, AppendTrace> = tracingChannel('ministore:append')
