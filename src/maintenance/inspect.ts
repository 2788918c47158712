import { setTimeout as delay } from 'node:timers/promises'

import { isMiniStoreError, MiniStoreError } from '../errors.ts'
import { readRange } from '../fs/bytes.ts'
import { type File, type FileSystem, isNotFound } from '../fs/file-system.ts'
import { countLines, extendPrefix, JournalFiles, samePrefix, type SegmentPrefix } from '../ministore/format.ts'
import { locateJournal } from '../ministore/locate.ts'
import { findTornEnd, type TornEnd } from '../ministore/scan.ts'
import {
  isSameSegment, type JournalTail, type JournalView, readHeader, type ReportDamage, type Segment,
} from '../ministore/segments.ts'
import { DiskSource } from '../ministore/view.ts'

/**
 * Whether a segment follows on what is before it: `start` for the first, where there is nothing to hold it
 * against.
 */
export type ChainState = 'start' | 'ok' | 'broken' | 'unknown'

/** Whether the seal fits the active segment; `unreadable` when it is not whole, which is no damage. */
export type SealState = 'ok' | 'broken' | 'missing' | 'unreadable' | 'unknown'

/** One segment as it was found. */
export interface SegmentInspection {
  readonly name: string
  readonly path: string
  readonly isSealed: boolean
  readonly firstSequence: number
  /** `firstSequence - 1` while it is empty. */
  readonly lastSequence: number
  readonly records: number
  /** Of the file, a torn end included. */
  readonly bytes: number
  /** Empty when its header is damaged. */
  readonly version: string
  readonly chain: ChainState
}

/** A journal as it was found. */
export interface JournalInspection {
  readonly segments: readonly SegmentInspection[]
  readonly firstSequence: number
  readonly lastSequence: number
  readonly seal: { readonly state: SealState; readonly covered: SegmentPrefix | undefined }
  readonly torn: TornEnd | undefined
  /** Names of files with bytes that recovery cut off or repair took away. */
  readonly evidence: readonly string[]
  /** Damage to segments as such, and the first break of each chain. */
  readonly damages: readonly MiniStoreError[]
}

/**
 * Looks at every segment of a journal, without a lock and without changing anything; undefined when there is
 * none. It does not parse records.
 *
 * @param options.isQuick reads headers only: then chain and seal are `unknown`, and records are counted from
 *   the headers.
 * @throws {MiniStoreError} `ERR_MINISTORE_UNSUPPORTED_VERSION`, `…_IO`. The signal's reason when it is
 *   aborted.
 */
export async function inspectJournal(
  fs: FileSystem,
  path: string,
  options: { readonly isQuick: boolean; readonly signal?: AbortSignal | undefined },
): Promise<JournalInspection | undefined> {
  for (let looks = 1; ; looks++) {
    const damages: MiniStoreError[] = []
    const outline = await outlineJournal(fs, new DiskSource(fs, path), (damage) => damages.push(damage))
    const files = await locateJournal(fs, path)
    if (outline === undefined) return damages.length === 0 ? undefined : { ...nothing, damages }
    const digests = options.isQuick ? [] : await digestAll(fs, outline, options.signal)
    if (digests !== undefined) return describe(fs, files, { outline, digests, damages })
    if (looks === mostLooks) {
      const message = `${path} was moved ${looks} times while it was being inspected`
      throw new MiniStoreError('ERR_MINISTORE_IO', message, { path })
    }
  }
}

/** A writer that deletes a segment while we read makes us look again, so often at most. */
const mostLooks = 10

const nothing: JournalInspection = {
  segments: [],
  firstSequence: 1,
  lastSequence: 0,
  seal: { state: 'unknown', covered: undefined },
  torn: undefined,
  evidence: [],
  damages: [],
}

/** What all bytes of a segment are, and those that the seal covers. */
interface Digest {
  readonly whole: SegmentPrefix
  readonly sealed: SegmentPrefix | undefined
}

async function digestAll(
  fs: FileSystem,
  { view }: JournalOutline,
  signal: AbortSignal | undefined,
): Promise<Digest[] | undefined> {
  const digests: Digest[] = []
  for (const segment of view.segments) {
    const isLast = segment === view.segments.at(-1)
    const checkpoint = isLast ? view.tail?.checkpoints.at(-1)?.bytes : undefined
    const digest = await digestSegment(fs, view, segment, { checkpoint, signal })
    if (digest === undefined) return undefined
    digests.push(digest)
  }
  return digests
}

/** Undefined when the segment is gone by now. */
async function digestSegment(
  fs: FileSystem,
  view: JournalView,
  segment: Segment,
  options: { readonly checkpoint: number | undefined; readonly signal: AbortSignal | undefined },
): Promise<Digest | undefined> {
  const { checkpoint = -1 } = options
  const file = await openSegment(fs, view, segment)
  if (file === undefined) return undefined
  try {
    // The header is a line and no record.
    let whole: SegmentPrefix = { bytes: 0, records: -1, crc32: 0 }
    let sealed: SegmentPrefix | undefined
    for await (const { bytes } of readRange(file, { offset: 0, bytes: segment.bytes })) {
      options.signal?.throwIfAborted()
      if (checkpoint > whole.bytes && checkpoint <= whole.bytes + bytes.length) {
        const upTo = bytes.subarray(0, checkpoint - whole.bytes)
        sealed = extendPrefix(whole, upTo, countLines(upTo))
      }
      whole = extendPrefix(whole, bytes, countLines(bytes))
    }
    return { whole, sealed }
  } finally {
    await file.close()
  }
}

async function describe(
  fs: FileSystem,
  files: JournalFiles,
  found: {
    readonly outline: JournalOutline
    readonly digests: readonly Digest[]
    readonly damages: readonly MiniStoreError[]
  },
): Promise<JournalInspection> {
  const { outline, digests } = found
  const { view, firstSequence, lastSequence, torn } = outline
  const damages = [...found.damages]
  const segments = view.segments.map((segment, at): SegmentInspection => {
    const problem = chainProblem(view.segments, digests, at)
    if (problem !== undefined && !damages.some((damage) => damage.segment === segment.name)) {
      const message = `The journal ${files.path} is damaged at ${segment.name}: ${problem}`
      const where = { path: files.path, segment: segment.name, sequence: segment.firstSequence }
      damages.push(new MiniStoreError('ERR_MINISTORE_CORRUPT', message, where))
    }
    const last = (view.segments[at + 1]?.firstSequence ?? lastSequence + 1) - 1
    const isLast = at === view.segments.length - 1
    const counted = isLast ? undefined : digests[at]?.whole.records
    const records = counted ?? last - segment.firstSequence + 1
    return {
      name: segment.name,
      path: segment.path,
      isSealed: segment.number !== undefined,
      firstSequence: segment.firstSequence,
      lastSequence: segment.firstSequence + records - 1,
      records,
      bytes: segment.bytes,
      version: segment.header.version,
      chain: chainState(view.segments, digests, at, problem),
    }
  })
  const seal = await describeSeal(fs, files, outline, digests.at(-1))
  if (seal.state === 'broken') {
    const problem = 'its seal says something else than it holds'
    const message = `The journal ${files.path} is damaged at ${files.name}: ${problem}`
    damages.push(
      new MiniStoreError('ERR_MINISTORE_CORRUPT', message, { path: files.path, segment: files.name }),
    )
  }
  const names = await fs.list(files.directory)
  const evidence = names.filter((name) => isEvidence(files, name)).toSorted()
  return { segments, firstSequence, lastSequence, seal, torn, evidence, damages }
}

/** Why a segment cannot follow on the one before it. */
function chainProblem(
  segments: readonly Segment[],
  digests: readonly Digest[],
  at: number,
): string | undefined {
  const before = digests[at - 1]
  const segment = segments[at]
  const previous = segments[at - 1]
  if (before === undefined || segment === undefined || previous === undefined) return undefined
  const { previousCrc32 } = segment.header
  if (previousCrc32 !== undefined && previousCrc32 !== before.whole.crc32) {
    return `${previous.name} before it has changed since it was sealed (wrong checksum)`
  }
  const expected = previous.firstSequence + before.whole.records
  if (segment.firstSequence === expected) return undefined
  return `it begins with sequence ${segment.firstSequence}, expected ${expected}`
}

function chainState(
  segments: readonly Segment[],
  digests: readonly Digest[],
  at: number,
  problem: string | undefined,
): ChainState {
  if (at === 0) return 'start'
  if (problem !== undefined) return 'broken'
  return digests.length === 0 || segments[at]?.header.previousCrc32 === undefined ? 'unknown' : 'ok'
}

async function describeSeal(
  fs: FileSystem,
  files: JournalFiles,
  { view }: JournalOutline,
  digest: Digest | undefined,
): Promise<JournalInspection['seal']> {
  const covered = view.tail?.checkpoints.at(-1)
  if (covered !== undefined) {
    if (digest === undefined) return { state: 'unknown', covered }
    return {
      state: digest.sealed !== undefined && samePrefix(digest.sealed, covered) ? 'ok' : 'broken',
      covered,
    }
  }
  try {
    await fs.stat(files.seal)
    const hasActive = view.tail !== undefined && view.tail.segment.number === undefined
    return { state: hasActive ? 'unreadable' : 'unknown', covered: undefined }
  } catch (error) {
    if (isNotFound(error)) return { state: 'missing', covered: undefined }
    throw error
  }
}

/** Whether a file holds what recovery cut off or what a repair kept. */
function isEvidence(files: JournalFiles, name: string): boolean {
  return name.startsWith(`${files.name}.`) && /\.(?:torn-\d+(?:-\d+)?|broken(?:-\d+)?)$/.test(name)
}

/**
 * Opens a segment of a view for reading. A writer may have sealed the active one since: then it is found under
 * the number that a rotation gives it. Undefined when it is gone, or has fewer bytes than in the view.
 */
export async function openSegment(
  fs: FileSystem,
  view: JournalView,
  segment: Segment,
): Promise<File | undefined> {
  const found = await openIfSame(fs, segment, segment.path)
  if (found !== undefined || segment.number !== undefined) return found
  const files = new JournalFiles(segment.path)
  const number = (view.segments.at(-2)?.number ?? 0) + 1
  return openIfSame(fs, segment, files.at(files.sealedName(number)))
}

async function openIfSame(fs: FileSystem, segment: Segment, path: string): Promise<File | undefined> {
  let file: File
  try {
    file = await fs.open(path, 'read')
  } catch (error) {
    if (isNotFound(error)) return undefined
    throw error
  }
  try {
    const { inode, size } = await file.stat()
    const header = await readHeader(file, { path, segment: segment.name }, () => {})
    if (header !== undefined && isSameSegment(segment, { inode, header }) && size >= segment.bytes)
      return file
  } catch (error) {
    await file.close().catch(() => {})
    throw error
  }
  await file.close()
  return undefined
}

/** How a journal stands, by its headers and the end of its last segment. */
export interface JournalOutline {
  readonly view: JournalView
  /** Sequence number of the first record, or of the next one when there is none. */
  readonly firstSequence: number
  /** Sequence number of the last whole record; `firstSequence - 1` when there is none. */
  readonly lastSequence: number
  /** What the active segment has behind its last whole record. */
  readonly torn: TornEnd | undefined
}

/**
 * Looks at a journal, without a lock and without changing anything; undefined when there is none.
 *
 * Reads the headers, and of the last segment what its seal does not cover: however long the journal is, no
 * more of its records is read.
 *
 * @param report is told of damage to segments as such; without it the damage is thrown.
 * @throws {MiniStoreError} `ERR_MINISTORE_CORRUPT`, `…_UNSUPPORTED_VERSION`, `…_IO`.
 */
export async function outlineJournal(
  fs: FileSystem,
  source: DiskSource,
  report?: ReportDamage,
): Promise<JournalOutline | undefined> {
  const { path } = source
  for (let looks = 1; ; looks++) {
    const view = await source.look({ report })
    if (view.tail === undefined) return undefined
    const end = await readEnd(fs, view, view.tail)
    if (end !== undefined) {
      const { firstSequence } = view.tail.segment
      const first = (view.segments[0] ?? view.tail.segment).firstSequence
      return { view, firstSequence: first, lastSequence: firstSequence + end.records - 1, torn: end.torn }
    }
    if (looks === mostTailLooks) {
      const message = `${path} was moved ${looks} times while its end was being read`
      throw new MiniStoreError('ERR_MINISTORE_IO', message, { path })
    }
    await delay(1)
  }
}

/** A writer that deletes or rolls back while we look makes us look again, so often at most. */
const mostTailLooks = 100

/** What is in the last segment; undefined when it is gone or was cut meanwhile. */
async function readEnd(
  fs: FileSystem,
  view: JournalView,
  tail: JournalTail,
): Promise<{ records: number; torn: TornEnd | undefined } | undefined> {
  const { segment, bytes: end } = tail
  const { header } = segment
  const file = await openSegment(fs, view, segment)
  if (file === undefined) return undefined
  try {
    // One that claims more than there is, is damage that whoever reads the records is told of.
    const seal = tail.checkpoints.findLast(({ bytes }) => bytes >= header.bytes && bytes <= end)
    const known = seal ?? { bytes: header.bytes, records: 0 }
    let records = known.records
    for await (const { bytes } of readRange(file, { offset: known.bytes, bytes: end - known.bytes })) {
      records += countLines(bytes)
    }
    const isActive = segment.number === undefined
    const torn = isActive ? await findTornEnd(file, { from: header.bytes, end }) : undefined
    return { records: torn?.isEnded === true ? records - 1 : records, torn }
  } catch (error) {
    // Rolled back by its writer while we read: it ends earlier than it did.
    if (isMiniStoreError(error, 'ERR_MINISTORE_IO')) return undefined
    throw error
  } finally {
    await file.close()
  }
}
