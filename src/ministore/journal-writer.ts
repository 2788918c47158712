import PQueue from 'p-queue'

import { ioError, messageOf, MiniStoreError, type MiniStoreErrorCode } from '../errors.ts'
import { writeFully } from '../fs/atomic-replace.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { isOutOfSpace } from '../fs/out-of-space.ts'
import { appendChannel, poisonChannel, rotateChannel, traced } from './channels.ts'
import type { JournalFiles } from './journal-files.ts'
import type { JournalView } from './journal-source.ts'
import { type ActiveSegment, orPoison, PoisoningError } from './next-segment.ts'
import type { RecoveredJournal } from './recovery.ts'
import { rotateSegment } from './rotation.ts'
import { writeSeal } from './seal.ts'
import { extendPrefix, samePrefix, type SegmentPrefix } from './segment-prefix.ts'
import type { Segment } from './segments.ts'

/**
 * The one who writes: everything that changes a journal goes through its queue, one at a time, in call order.
 *
 * `open` → (`poisoned`) → `closing` → `closed`. Its state changes only inside the queue, but for `close`.
 */
export class JournalWriter {
  readonly files: JournalFiles
  readonly #fs: FileSystem
  readonly #limits: { readonly maxBytesPerSegment: number; readonly maxSegments: number }
  readonly #queue = new PQueue({ concurrency: 1 })
  #sealed: readonly Segment[]
  #active: ActiveSegment
  /** What the seal on disk says; undefined when there is none. */
  #seal: SegmentPrefix | undefined
  #poison: MiniStoreError | undefined
  #isClosing = false
  #isClosed = false
  readonly #waiting = new Set<() => void>()

  constructor(
    fs: FileSystem,
    files: JournalFiles,
    journal: RecoveredJournal,
    limits: { readonly maxBytesPerSegment: number; readonly maxSegments: number },
  ) {
    this.#fs = fs
    this.files = files
    this.#limits = limits
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

  /** How the journal stands, as far as it is acknowledged: for readers in this process. */
  view(): JournalView {
    const { segment, prefix } = this.#active
    return {
      segments: [...this.#sealed, segment],
      end: { firstSequence: segment.firstSequence, bytes: prefix.bytes },
      checkpoints: this.#seal === undefined ? [prefix] : [this.#seal, prefix],
      isLive: true,
    }
  }

  /** Resolves at the next acknowledged append, rotation, deletion, poisoning or close. */
  changed(): Promise<void> {
    return new Promise((resolve) => this.#waiting.add(resolve))
  }

  /** @throws {MiniStoreError} unless it is open and sound. */
  assertUsable(): void {
    if (this.#isClosing) throw this.#error('ERR_MINISTORE_CLOSED', `The store of ${this.files.path} is closed`)
    this.assertSound()
  }

  /** @throws {MiniStoreError} `ERR_MINISTORE_POISONED` once a write or an fsync has failed beyond repair. */
  assertSound(): void {
    if (this.#poison === undefined) return
    throw this.#error('ERR_MINISTORE_POISONED', `Only close() works: ${this.#poison.message}`, this.#poison)
  }

  /**
   * Appends lines, one write and one fsync, and resolves with the sequence number of the last.
   *
   * @param validation awaited when the lines' turn has come; when it rejects, nothing is written.
   */
  append(lines: Buffer, records: number, validation?: Promise<unknown>): Promise<number> {
    const context = { path: this.files.path, bytes: lines.length, records }
    return this.#queue.add(() =>
      traced(appendChannel, context, async () => {
        if (validation !== undefined) await validation
        this.assertSound()
        const { prefix } = this.#active
        const isFull = prefix.records > 0 && prefix.bytes + lines.length > this.#limits.maxBytesPerSegment
        if (isFull) await this.#rotate()
        await this.#write(lines, records)
        const sequence = this.lastSequence
        Object.assign(context, { sequence })
        return sequence
      }),
    )
  }

  /** Seals the active segment, unless it is empty, and begins the next one. */
  rotate(): Promise<void> {
    return this.#queue.add(async () => {
      this.assertSound()
      if (this.#active.prefix.records > 0) await this.#rotate()
    })
  }

  /** Deletes the sealed segments all of whose records are below `sequence`, oldest first. */
  truncateBefore(sequence: number): Promise<void> {
    return this.#queue.add(async () => {
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
      if (this.#poison === undefined) await this.sealActive()
    } finally {
      this.#isClosed = true
      this.#wake()
      await this.#active.file.close()
    }
  }

  /**
   * Writes the seal, unless there is one that says the same. A full disk is no reason to fail: a seal is an extra, and
   * the older one, if there is any, stays true.
   */
  async sealActive(): Promise<void> {
    const { prefix } = this.#active
    if (this.#seal !== undefined && samePrefix(this.#seal, prefix)) return
    try {
      await writeSeal(this.#fs, this.files.seal, prefix)
      this.#seal = prefix
    } catch (error) {
      if (!isOutOfSpace(error)) throw ioError('write the seal', error, { path: this.files.path })
    }
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
      this.#setPoison('fsync', error)
      // The record stays visible to whoever opens the journal next on this system, and their fsync would succeed without
      // writing it: the kernel takes its pages for clean. Cut off it cannot pass for durable. Should the cut fail or not
      // last, the outcome is as unknown as it is.
      await file.truncate(prefix.bytes).catch(() => {})
      const context = { path: this.files.path, segment: segment.name, sequence: this.lastSequence + 1, cause: error }
      throw new MiniStoreError(
        'ERR_MINISTORE_OUTCOME_UNKNOWN',
        `The fsync of record ${context.sequence} failed (${messageOf(error)}): it may or may not be on the disk`,
        context,
      )
    }
    this.#active = { segment, file, prefix: extendPrefix(prefix, lines, records) }
    this.#wake()
  }

  /** Cuts what a failed write may have left, so that the next append finds the file as the last one left it. */
  async #rollBack(cause: unknown): Promise<MiniStoreError> {
    const { file, prefix, segment } = this.#active
    const context = { path: this.files.path, segment: segment.name }
    try {
      await file.truncate(prefix.bytes)
      await file.sync()
    } catch (error) {
      this.#setPoison('roll back a failed write', error)
      const message = `A write failed (${messageOf(cause)}) and could not be rolled back (${messageOf(error)})`
      return this.#error('ERR_MINISTORE_OUTCOME_UNKNOWN', message, cause)
    }
    const hint = isOutOfSpace(cause) ? ' (no space left: the disk, the quota or the largest file is full)' : ''
    return ioError(`write the record${hint}; nothing of it is left and the store is usable`, cause, context)
  }

  async #rotate(): Promise<void> {
    const from = this.#active
    // Where earlier ones were deleted the numbers go on from what is left.
    const number = (this.#sealed.at(-1)?.number ?? 0) + 1
    const context = {
      path: this.files.path,
      segment: this.files.sealedName(number),
      sequence: from.segment.firstSequence + from.prefix.records,
    }
    const hasSeal = this.#seal !== undefined
    const { sealed, active } = await traced(rotateChannel, context, () =>
      this.#guard('rotate', rotateSegment(this.#fs, this.files, from, { number, hasSeal })),
    )
    this.#seal = undefined
    this.#sealed = [...this.#sealed, sealed]
    this.#active = active
    this.#wake()
    // Every byte of it is durable, so nothing that closing could report would matter.
    await from.file.close().catch(() => {})
    while (this.#sealed.length + 1 > this.#limits.maxSegments) await this.#deleteOldest()
  }

  async #deleteOldest(): Promise<void> {
    const [oldest, ...kept] = this.#sealed
    if (oldest === undefined) return
    await this.#guard(`delete ${oldest.name}`, this.#fs.unlink(oldest.path))
    this.#sealed = kept
    this.#wake()
    // Durable before the next goes, or a crash could leave a gap.
    await this.#guard(`delete ${oldest.name}`, orPoison(this.#fs.syncDirectory(this.files.directory)))
  }

  /** Turns a failed step into the error for the caller, and poisons when the state on disk is unknown. */
  async #guard<T>(doing: string, step: Promise<T>): Promise<T> {
    try {
      return await step
    } catch (error) {
      if (error instanceof PoisoningError) {
        this.#setPoison(doing, error.cause)
        this.assertSound()
      }
      throw ioError(doing, error, { path: this.files.path })
    }
  }

  #setPoison(doing: string, cause: unknown): void {
    const message = `could not ${doing} (${messageOf(cause)}), and what is on the disk is unknown until it is opened anew`
    this.#poison = this.#error('ERR_MINISTORE_POISONED', message, cause)
    poisonChannel.publish({ path: this.files.path, error: this.#poison })
    this.#wake()
  }

  #error(code: MiniStoreErrorCode, message: string, cause?: unknown): MiniStoreError {
    return new MiniStoreError(code, message, { path: this.files.path, cause })
  }

  #wake(): void {
    for (const resolve of this.#waiting) resolve()
    this.#waiting.clear()
  }
}
