/**
 * The file that records are appended to: one write and one fsync at a time, the rollback of a failed
 * write, and padding.
 *
 * **Invariant.** After the acknowledged bytes, the file holds nothing but padding: NUL bytes that
 * `preallocate` has written ahead, and that no record contains. A method that cannot keep this throws
 * a {@link PoisoningError}.
 */
import { ioError, messageOf, MiniStoreError } from '../errors.ts'
import { isOutOfSpace, writeFully } from '../fs/durable.ts'
import type { File } from '../fs/file-system.ts'
import { type Checkpoint, extendCheckpoint } from './format.ts'
import type { Segment } from './segments.ts'

interface AppendOptions {
  /** Path of the journal, for errors. */
  readonly path: string
  /** Number of bytes to write ahead at a time; 0 for none. */
  readonly preallocate: number
  /** Size that padding does not exceed. */
  readonly maxBytesPerSegment: number
}

/** The active segment, open for writing and locked. Calls of its methods must not overlap. */
export class ActiveSegment {
  readonly segment: Segment
  readonly file: File
  #acknowledged: Checkpoint
  #padding: number

  /** @param segment with the padding that the file has now. */
  constructor(segment: Segment, file: File, acknowledged: Checkpoint) {
    this.segment = segment
    this.file = file
    this.#acknowledged = acknowledged
    this.#padding = segment.padding
  }

  /** The acknowledged part of the segment. Another object after each append. */
  get acknowledged(): Checkpoint {
    return this.#acknowledged
  }

  /** Sequence number that the next record will have. */
  get nextSequence(): number {
    return this.segment.firstSequence + this.#acknowledged.records
  }

  /**
   * Appends lines with one write and one fsync.
   *
   * A failed write is rolled back: the file is cut after the acknowledged bytes, and the cut synced.
   *
   * @throws {MiniStoreError} `ERR_MINISTORE_IO` if the write failed and was rolled back.
   * @throws {PoisoningError} if the fsync or the rollback failed.
   */
  async append(lines: Buffer, records: number, options: AppendOptions): Promise<void> {
    // If a crash tore several lines inside the padding, whole lines could follow NUL bytes.
    if (records > 1 && this.#padding > 0) await this.cutPadding()
    const bytes = records > 1 ? lines : this.#padded(lines, options)
    const from = this.#acknowledged
    try {
      const written = this.file.write(bytes, from.bytes)
      // Usually, every byte is in the page cache by now.
      if (written !== bytes.length) await writeFully(this.file, bytes, from.bytes, written)
    } catch (error) {
      const refusal = await this.#rollBack(error, options.path)
      // The padding may need space that the lines do not.
      if (bytes === lines || !isOutOfSpace(error)) throw refusal
      return await this.append(lines, records, { ...options, preallocate: 0 })
    }
    let extended: Checkpoint
    try {
      const synced = this.file.dataSync()
      // Computed while the disk is at work, so it takes no time of the append.
      extended = extendCheckpoint(from, lines, records)
      await synced
    } catch (error) {
      // After the failed fsync the kernel treats the record's pages as clean. The next open on this
      // system would still see the record, and its fsync would succeed without writing it. Cutting
      // the record off keeps it from passing for durable. If the cut fails or does not last, the
      // outcome is no less known than before, so its error is ignored.
      await this.file.truncate(from.bytes).catch(() => {})
      const sequence = this.nextSequence
      const message = `The fsync of record ${sequence} failed (${messageOf(error)}): it may or may not be on the disk`
      const context = { path: options.path, segment: this.segment.name, sequence, cause: error }
      throw new PoisoningError(error, { doing: 'fsync', refusal: new MiniStoreError('ERR_MINISTORE_OUTCOME_UNKNOWN', message, context) })
    }
    this.#acknowledged = extended
    this.#padding = Math.max(this.#padding, bytes.length) - lines.length
  }

  /**
   * Cuts off the padding and makes the cut durable. Until then nothing orders it before the next
   * change: a crash could keep that and not the cut.
   *
   * @param isLast Whether no change follows. A failed sync then makes nothing unknown, and on a full
   *   disk the padding may stay: the next open cuts it off.
   * @throws {PoisoningError} if the sync failed. The error of the system if the cut failed.
   */
  async cutPadding({ isLast = false }: { readonly isLast?: boolean } = {}): Promise<void> {
    if (this.#padding === 0) return
    try {
      await this.file.truncate(this.#acknowledged.bytes)
    } catch (error) {
      if (isLast && isOutOfSpace(error)) return
      throw error
    }
    this.#padding = 0
    await (isLast ? this.file.sync() : orPoison(this.file.sync()))
  }

  /**
   * The lines and, if they do not fit into the padding, new padding after them. Both are then written
   * at once. An old header that recovery could not replace promises no padding.
   */
  #padded(lines: Buffer, { preallocate, maxBytesPerSegment }: AppendOptions): Buffer {
    if (lines.length <= this.#padding || preallocate === 0 || this.segment.header.id === undefined) return lines
    const { bytes } = this.#acknowledged
    const end = bytes + lines.length
    const size = Math.min(Math.ceil(end / preallocate) * preallocate, maxBytesPerSegment)
    // Buffer.concat fills up with NUL bytes.
    return Buffer.concat([lines], Math.max(end, size) - bytes)
  }

  /**
   * Cuts off what a failed write may have left, durably, so that the file again ends where the last
   * acknowledged append ended. Returns the error for the caller.
   *
   * @throws {PoisoningError} if the cut fails, because some lines may be on disk.
   */
  async #rollBack(cause: unknown, path: string): Promise<MiniStoreError> {
    const context = { path, segment: this.segment.name }
    try {
      await this.file.truncate(this.#acknowledged.bytes)
      await this.file.sync()
      this.#padding = 0
    } catch (error) {
      const message = `A write failed (${messageOf(cause)}) and could not be rolled back (${messageOf(error)})`
      const refusal = new MiniStoreError('ERR_MINISTORE_OUTCOME_UNKNOWN', message, { ...context, cause })
      throw new PoisoningError(error, { doing: 'roll back a failed write', refusal })
    }
    const hint = isOutOfSpace(cause) ? ' (no space left: disk, quota or maximum file size)' : ''
    return ioError(`write the record${hint}; nothing was written and the store is usable`, cause, context)
  }
}

/**
 * A failure that leaves the state on disk unknown. Only recovery at the next open can continue. A
 * failed fsync is always such a failure: the kernel may have dropped the dirty pages, so a second
 * fsync could report success for bytes that never reached the disk
 * (https://lwn.net/Articles/752063/).
 */
export class PoisoningError extends Error {
  override readonly name = 'PoisoningError'

  /** The action that failed, worded to complete "could not …", if the caller does not say it. */
  readonly doing: string | undefined
  /** The error for the caller, instead of `ERR_MINISTORE_POISONED`. */
  readonly refusal: MiniStoreError | undefined

  constructor(cause: unknown, { doing, refusal }: { readonly doing?: string; readonly refusal?: MiniStoreError } = {}) {
    super('The state on disk is unknown', { cause })
    this.doing = doing
    this.refusal = refusal
  }
}

/**
 * Waits for a step whose failure leaves the state on disk unknown.
 *
 * @throws {PoisoningError} if the step fails, with the error as its `cause`.
 */
export async function orPoison<T>(step: Promise<T>): Promise<T> {
  try {
    return await step
  } catch (error) {
    throw new PoisoningError(error)
  }
}
