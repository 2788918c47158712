import { resolve as absolute } from 'node:path'
import { clearTimeout, setTimeout } from 'node:timers'
import { setTimeout as delay } from 'node:timers/promises'

import { settledOrAborted, throwIfAborted } from '../async.ts'
import { isMiniStoreError, messageOf } from '../errors.ts'
import { type FileStat, type FileSystem, isNotFound } from '../fs/file-system.ts'
import { findHolder, isSameName } from '../fs/lock.ts'
import { filePath } from '../options.ts'
import { JournalFiles, readSeal, samePrefix, type SegmentPrefix } from './format.ts'
import { locateJournal } from './locate.ts'
import { missingActiveDamage, scanSegment } from './scan.ts'
import {
  inspectActive, isSameSegment, type JournalSource, type JournalView, type ReportDamage, type Segment,
  type SegmentFile, surveySegments, throwDamage, type UnfinishedFile,
} from './segments.ts'
import { JournalWriter } from './writer.ts'

/** A writer moves files while we look: what looks like damage must look the same so often in a row. */
const sameLooks = 3

/**
 * A journal as its files show it: for readers that have only its path. Takes no lock and changes nothing.
 *
 * When the journal is open in this thread, its writer is asked instead, so that no unacknowledged record is seen.
 */
export class DiskSource implements JournalSource {
  readonly path: string
  readonly #fs: FileSystem
  #files: JournalFiles
  #isLocated = false
  readonly #pollIntervalMs: number
  readonly #reported = new Set<string>()
  /** The file under the active name when a view was taken, whatever it held: when it changes, so may the journal have. */
  readonly #activeFiles = new WeakMap<JournalView, SegmentFile | UnfinishedFile | undefined>()
  #stopWatching: (() => void) | undefined
  #onHint: (() => void) | undefined

  /** @throws {TypeError} unless the path is one. */
  constructor(fs: FileSystem, path: string, options: { readonly pollIntervalMs?: number } = {}) {
    this.#fs = fs
    this.#files = new JournalFiles(absolute(filePath(path)))
    this.path = this.#files.path
    this.#pollIntervalMs = options.pollIntervalMs ?? 100
  }

  async look(options: Parameters<JournalSource['look']>[0] = {}): Promise<JournalView> {
    const { since, report } = options
    if (!this.#isLocated) {
      this.#files = await locateJournal(this.#fs, this.path)
      this.#isLocated = true
    }
    const writer = await this.#liveWriter()
    if (writer !== undefined) {
      await writer.namesSettled()
      return writer.view()
    }
    const grown = since === undefined ? undefined : await this.#lookAtGrowth(since)
    if (grown !== undefined) return grown
    for (let same = 1, last = ''; ; ) {
      try {
        return await this.#survey(throwDamage)
      } catch (error) {
        const mayBeMoving = isNotFound(error) || isCorruption(error)
        if (!mayBeMoving) throw error
        same = messageOf(error) === last ? same + 1 : 1
        last = messageOf(error)
        if (same === sameLooks) return this.#survey(report === undefined ? throwDamage : this.#once(report))
        await delay(1)
      }
    }
  }

  async changedSince(
    view: JournalView,
    { signal, isRestless }: { readonly signal: AbortSignal; readonly isRestless: boolean },
  ): Promise<boolean> {
    for (let isFirst = true; ; isFirst = false) {
      const writer = await this.#liveWriter()
      const hint = this.#hint()
      if (await this.#differs(view, writer)) return true
      if (isRestless && !isFirst) return true
      throwIfAborted(signal)
      if (writer === undefined) await this.#hintOrPoll(hint, signal)
      else await writer.changed(signal)
    }
  }

  close(): void {
    this.#stopWatching?.()
    this.#stopWatching = undefined
  }

  async #hintOrPoll(hint: Promise<void>, signal: AbortSignal): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    // The timer keeps the process alive until then.
    const poll = new Promise<void>((resolve) => (timer = setTimeout(resolve, this.#pollIntervalMs)))
    try {
      await settledOrAborted(Promise.race([hint, poll]), signal)
    } finally {
      clearTimeout(timer)
    }
  }

  async #survey(report: ReportDamage): Promise<JournalView> {
    const fs = this.#fs
    const files = this.#files
    // The seal counts only when it is the same before and after: then it belongs to the active segment that was seen.
    const before = await readSeal(fs, files.seal)
    const active = await inspectActive(fs, files, report)
    const after = await readSeal(fs, files.seal)
    const seal = before !== undefined && after !== undefined && samePrefix(before, after) ? after : undefined
    const { segments } = await surveySegments(fs, files, active, report)
    const last = segments.at(-1)
    if (active === undefined || !('header' in active)) await this.#checkMissing(seal, last, report)
    const view = { segments, tail: last && { segment: last, bytes: last.bytes, checkpoints: sealOf(segments, seal), isAcknowledged: false } }
    this.#activeFiles.set(view, active)
    return view
  }

  async #checkMissing(seal: SegmentPrefix | undefined, last: Segment | undefined, report: ReportDamage): Promise<void> {
    if (seal === undefined) return
    const lastSealed = last === undefined ? undefined : { atSeal: await this.#prefixOf(last, seal.bytes) }
    const damage = missingActiveDamage(this.#files, seal, lastSealed)
    if (damage !== undefined) report(damage)
  }

  async #prefixOf(segment: Segment, checkpoint: number): Promise<SegmentPrefix | undefined> {
    const file = await this.#fs.open(segment.path, 'read')
    try {
      return (await scanSegment(file, { end: segment.bytes, checkpoint })).atCheckpoint
    } finally {
      await file.close()
    }
  }

  /** The view with more of its active segment, when that is all that has changed: spares a survey for every append. */
  async #lookAtGrowth(previous: JournalView): Promise<JournalView | undefined> {
    const { tail } = previous
    if (tail === undefined || tail.isAcknowledged || tail.segment.number !== undefined) return undefined
    const active = await inspectActive(this.#fs, this.#files, () => {})
    if (active === undefined || !('header' in active) || !isSameSegment(active, tail.segment)) return undefined
    const view = { segments: previous.segments, tail: { ...tail, bytes: active.bytes, checkpoints: [] } }
    this.#activeFiles.set(view, active)
    return view
  }

  async #differs(view: JournalView, writer: JournalWriter | undefined): Promise<boolean> {
    if (writer !== undefined) return !writer.isAt(view.tail)
    if (view.tail?.isAcknowledged === true) return true
    const stat = await this.#statActive()
    const seen = this.#activeFiles.get(view)
    return stat?.inode !== seen?.inode || stat?.size !== seen?.bytes || stat?.changedMs !== seen?.changedMs
  }

  async #statActive(): Promise<FileStat | undefined> {
    try {
      return await this.#fs.stat(this.#files.path)
    } catch (error) {
      if (isNotFound(error)) return undefined
      throw error
    }
  }

  async #liveWriter(): Promise<JournalWriter | undefined> {
    const holder = await findHolder(this.#fs, [this.#files.lock, this.#files.path])
    const writer = holder !== undefined && 'writer' in holder ? holder.writer : undefined
    if (!(writer instanceof JournalWriter && writer.isSound)) return undefined
    // Where the files were moved while it has them open, the names in its view do not lead to them.
    return (await isSameName(this.#fs, writer.files.path, this.#files.path)) ? writer : undefined
  }

  /** Resolves at the next hint that the directory has changed. */
  #hint(): Promise<void> {
    this.#stopWatching ??= this.#fs.watch(this.#files.directory, () => this.#onHint?.())
    return new Promise((resolve) => {
      this.#onHint = resolve
    })
  }

  #once(report: ReportDamage): ReportDamage {
    return (damage) => {
      if (this.#reported.has(damage.message)) return
      this.#reported.add(damage.message)
      report(damage)
    }
  }
}

/**
 * The seal as a checkpoint of the last segment. Not where that has no sequence number and others are before it: then
 * another program rotated, which knows of no seals, and it may be that of another segment.
 */
function sealOf(segments: readonly Segment[], seal: SegmentPrefix | undefined): SegmentPrefix[] {
  const last = segments.at(-1)
  const isForeign = segments.length > 1 && last?.header.sequence === undefined
  return seal === undefined || isForeign || last?.number !== undefined ? [] : [seal]
}

function isCorruption(error: unknown): boolean {
  return isMiniStoreError(error, 'ERR_MINISTORE_CORRUPT')
}

/** A journal as its writer in this thread knows it: nothing is polled, nothing unacknowledged is seen. */
export class LiveSource implements JournalSource {
  readonly #writer: JournalWriter
  readonly #disk: DiskSource

  /** @param disk where a stream looks that outlives its store. */
  constructor(writer: JournalWriter, disk: DiskSource) {
    this.#writer = writer
    this.#disk = disk
  }

  get path(): string {
    return this.#writer.files.path
  }

  /**
   * The writer's view, once no rename is under way. Of a writer that is closed or poisoned, the names that are on the
   * disk by now and the writer's end: what another writer adds behind it is not this store's.
   */
  async look(options: Parameters<JournalSource['look']>[0] = {}): Promise<JournalView> {
    await this.#writer.namesSettled()
    if (this.#writer.isSound) return this.#writer.view()
    const { segments } = await this.#disk.look({ report: options.report })
    return { segments, tail: this.#writer.view().tail }
  }

  async changedSince(view: JournalView, { signal }: { readonly signal: AbortSignal }): Promise<boolean> {
    while (this.#writer.isAt(view.tail)) {
      this.#writer.assertSound()
      if (this.#writer.isClosed) return false
      await this.#writer.changed(signal)
    }
    return true
  }

  close(): void {
    this.#disk.close()
  }
}

/** One segment of an open store. */
export interface SegmentInfo {
  /** Path of the file. */
  readonly path: string
  /** Whether it is complete; the one that is not is the active segment. */
  readonly isSealed: boolean
  /** Sequence number of its first record, or the one it will have. */
  readonly firstSequence: number
  /** Sequence number of its last record; `firstSequence - 1` while it is empty. */
  readonly lastSequence: number
  /** Size of the file, as far as it is acknowledged. */
  readonly bytes: number
  /** Version of the format in its header. */
  readonly version: string
}

/** The segments of a view, for users. */
export function describeSegments({ segments, tail }: JournalView, lastSequence: number): SegmentInfo[] {
  return segments.map(({ path, number, firstSequence, bytes, header }, index) => ({
    path,
    isSealed: number !== undefined,
    firstSequence,
    lastSequence: (segments[index + 1]?.firstSequence ?? lastSequence + 1) - 1,
    bytes: number === undefined ? (tail?.bytes ?? bytes) : bytes,
    version: header.version,
  }))
}
