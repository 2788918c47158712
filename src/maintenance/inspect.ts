import { hasCode, MiniStoreError } from '../errors.ts'
import { readRange } from '../fs/bytes.ts'
import { exists, ifPresent } from '../fs/durable.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import { idOf, isSameCheckpoint, JournalFiles, type Checkpoint } from '../ministore/format.ts'
import { CheckpointPass, findTornEnd, type TornEnd } from '../ministore/scan.ts'
import {
  countLinesIn, damaged, isSameSegment, type JournalTail, type JournalView, locateJournal, readHeader, type ReportDamage,
  retryWhileMoving, type Segment,
} from '../ministore/segments.ts'
import { JournalViews } from '../ministore/view.ts'

/**
 * Whether a segment follows the one before it: its header has the checksum of that segment and the
 * next sequence number. `start` for the first segment, which has none before it. `unknown` if the
 * segments were not read, or if the header has no checksum.
 */
export type ChainState = 'start' | 'ok' | 'broken' | 'unknown'

/**
 * Whether the seal matches the active segment. `unreadable` if the seal is not whole, which is not
 * damage.
 */
export type SealState = 'ok' | 'broken' | 'missing' | 'unreadable' | 'unknown'

/** One segment at the time of the inspection. */
export interface SegmentInspection {
  readonly name: string
  readonly path: string
  readonly isSealed: boolean
  readonly firstSequence: number
  /** `firstSequence - 1` if the segment is empty. */
  readonly lastSequence: number
  readonly records: number
  /** Size of the file, including a torn end, without the NUL bytes that `preallocate` wrote ahead. */
  readonly bytes: number
  /** Version of the format; empty if the header is damaged. */
  readonly version: string
  readonly chain: ChainState
}

/** A journal at the time of the inspection. */
export interface JournalInspection {
  /** Identity of the journal; undefined if no header has one, as below version 0.3. */
  readonly id: string | undefined
  readonly segments: readonly SegmentInspection[]
  readonly firstSequence: number
  readonly lastSequence: number
  readonly seal: { readonly state: SealState; readonly covered: Checkpoint | undefined }
  readonly torn: TornEnd | undefined
  /** Names of the files that hold bytes cut off by recovery or removed by repair. */
  readonly evidence: readonly string[]
  /**
   * Damage to headers, order, chain and seal. A broken chain is listed only for a segment with no
   * other damage.
   */
  readonly damages: readonly MiniStoreError[]
}

/**
 * Inspects every segment of a journal, without parsing records. Undefined if there is no journal.
 *
 * Takes no lock and changes nothing. If a writer deletes a segment during the inspection, the
 * inspection starts again.
 *
 * @param options.isQuick does not read whole segments. The chain of every segment but the first,
 *   and a whole seal, are then `unknown`. Records are counted from the headers.
 * @throws {MiniStoreError} `ERR_MINISTORE_UNSUPPORTED_VERSION` or `…_IO`.
 * @throws the reason of the signal if it is aborted.
 */
export async function inspectJournal(
  fs: FileSystem,
  path: string,
  options: { readonly isQuick: boolean; readonly signal?: AbortSignal | undefined },
): Promise<JournalInspection | undefined> {
  const found = await retryWhileMoving(async () => {
    const damages: MiniStoreError[] = []
    const outline = await outlineJournal(fs, new JournalViews(fs, path), (damage) => damages.push(damage))
    const files = await locateJournal(fs, path)
    if (outline === undefined) return { inspection: damages.length === 0 ? undefined : { ...nothing, damages } }
    const digests = options.isQuick ? [] : await digestAll(fs, outline, options.signal)
    return digests && { inspection: await describe(fs, files, { outline, digests, damages }) }
  }, { attempts: mostInspections })
  return (found ?? stillMoving(path)).inspection
}

/** Fewer than for other attempts, because each reads the whole journal. */
const mostInspections = 10

function stillMoving(path: string): never {
  const message = `Segments of ${path} were renamed or deleted at every attempt to inspect them. Try again`
  throw new MiniStoreError('ERR_MINISTORE_IO', message, { path })
}

const nothing: JournalInspection = {
  id: undefined,
  segments: [],
  firstSequence: 1,
  lastSequence: 0,
  seal: { state: 'unknown', covered: undefined },
  torn: undefined,
  evidence: [],
  damages: [],
}

/** Length and checksum of a whole segment, and of the part that the seal covers. */
interface Digest {
  readonly whole: Checkpoint
  readonly sealed: Checkpoint | undefined
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

/** Reads a whole segment. Undefined if it was deleted meanwhile. */
async function digestSegment(
  fs: FileSystem,
  view: JournalView,
  segment: Segment,
  options: { readonly checkpoint: number | undefined; readonly signal: AbortSignal | undefined },
): Promise<Digest | undefined> {
  const file = await openSegment(fs, view, segment)
  if (file === undefined) return undefined
  try {
    const pass = new CheckpointPass(options.checkpoint)
    for await (const { bytes } of readRange(file, { offset: 0, bytes: segment.bytes })) {
      options.signal?.throwIfAborted()
      pass.add(bytes)
    }
    return { whole: pass.prefix, sealed: pass.atCheckpoint }
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
      damages.push(damaged(files.path, segment.name, problem, { sequence: segment.firstSequence }))
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
    damages.push(damaged(files.path, files.name, 'its seal says something else than it holds'))
  }
  const names = await fs.list(files.directory)
  const evidence = names.filter((name) => isEvidence(files, name)).toSorted()
  return { id: idOf(view.segments), segments, firstSequence, lastSequence, seal, torn, evidence, damages }
}

/** The reason why a segment cannot follow the one before it. Undefined if there is none. */
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
      state: digest.sealed !== undefined && isSameCheckpoint(digest.sealed, covered) ? 'ok' : 'broken',
      covered,
    }
  }
  if (!(await exists(fs, files.seal))) return { state: 'missing', covered: undefined }
  const hasActive = view.tail !== undefined && view.tail.segment.number === undefined
  return { state: hasActive ? 'unreadable' : 'unknown', covered: undefined }
}

/** Whether a file holds bytes that recovery cut off or that a repair kept. */
function isEvidence(files: JournalFiles, name: string): boolean {
  return name.startsWith(`${files.name}.`) && /\.(?:torn-\d+(?:-\d+)?|broken(?:-\d+)?)$/.test(name)
}

/**
 * Opens a segment of a view for reading. If a writer has sealed the active segment since, the
 * segment is found under the number that a rotation gives it. Undefined if the segment was deleted,
 * or has fewer bytes than in the view.
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
  const file = await ifPresent(fs.open(path, 'read'))
  if (file === undefined) return undefined
  let isSame = false
  try {
    const { inode, size } = await file.stat()
    const header = await readHeader(file, { path, segment: segment.name }, () => {})
    isSame = header !== undefined && isSameSegment(segment, { inode, header }) && size >= segment.bytes
    return isSame ? file : undefined
  } finally {
    // Nothing was written, so an error on closing the file changes nothing.
    if (!isSame) await file.close().catch(() => {})
  }
}

/** The state of a journal according to its headers and the end of its last segment. */
export interface JournalOutline {
  readonly view: JournalView
  /** Sequence number of the first record. If there is none, that of the next record. */
  readonly firstSequence: number
  /** Sequence number of the last whole record; `firstSequence - 1` if there is none. */
  readonly lastSequence: number
  /** The bytes of the active segment after its last whole record. */
  readonly torn: TornEnd | undefined
}

/**
 * Reads the outline of a journal. Undefined if there is no journal. Takes no lock and changes
 * nothing.
 *
 * Reads the headers and the part of the last segment that its seal does not cover, so the cost does
 * not grow with the number of records in the journal.
 *
 * @param report receives damage to segments as a whole. Without it, the damage is thrown.
 * @throws {MiniStoreError} `ERR_MINISTORE_CORRUPT`, `…_UNSUPPORTED_VERSION` or `…_IO`.
 */
export async function outlineJournal(
  fs: FileSystem,
  source: JournalViews,
  report?: ReportDamage,
): Promise<JournalOutline | undefined> {
  const found = await retryWhileMoving(async () => {
    const view = await source.current({ report })
    if (view.tail === undefined) return { outline: undefined }
    const end = await readEnd(fs, view, view.tail)
    if (end === undefined) return undefined
    const { firstSequence } = view.tail.segment
    const first = (view.segments[0] ?? view.tail.segment).firstSequence
    return { outline: { view, firstSequence: first, lastSequence: firstSequence + end.records - 1, torn: end.torn } }
  })
  return (found ?? stillMoving(source.path)).outline
}

/** Reads the end of the last segment. Undefined if the segment was deleted or cut meanwhile. */
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
    // A seal that covers more bytes than the segment has is damage, which reading the records
    // reports.
    const seal = tail.checkpoints.findLast(({ bytes }) => bytes >= header.bytes && bytes <= end)
    const known = seal ?? { bytes: header.bytes, records: 0 }
    const records = known.records + (await countLinesIn(file, { offset: known.bytes, bytes: end - known.bytes }))
    const isActive = segment.number === undefined
    const torn = isActive ? await findTornEnd(file, { from: header.bytes, end }) : undefined
    return { records: torn?.isEnded === true ? records - 1 : records, torn }
  } catch (error) {
    // The writer rolled back an append during this read, so the segment is shorter than before.
    if (hasCode(error, 'ERR_MINISTORE_IO')) return undefined
    throw error
  } finally {
    await file.close()
  }
}
