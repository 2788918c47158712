import { messageOf, MiniStoreError } from '../errors.ts'
import { readRange } from '../fs/bytes.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import { countLines, type Header, headerMagic, type JournalFiles, type SegmentPrefix } from '../ministore/format.ts'
import {
  describeUncleanLine, isCleanBlock, isCleanLine, LineBlocks, linesOf, offsetAfterLines,
} from '../ministore/lines.ts'
import { findLongTornEnd } from '../ministore/scan.ts'
import { inspectActive, type ReportDamage, surveySegments } from '../ministore/segments.ts'

/** How damage that cannot be mended without loss is to go: what the person must choose. */
export type RepairChoice =
  /** Bad lines go, everything else stays. Records behind a line that goes get lower sequence numbers. */
  | { readonly kind: 'drop-damaged' }
  /** Everything from this sequence number on goes. What stays keeps its sequence numbers. */
  | { readonly kind: 'truncate-at'; readonly sequence: number }

/** Something wrong that a repair mends. */
export interface RepairFinding {
  readonly segment: string
  readonly line?: number
  readonly offset?: number
  readonly bytes?: number
  readonly sequence?: number
  readonly reason: string
  /**
   * What becomes of it: the line or file goes; header, chain or name are made anew; or nothing can be done
   * but go on.
   */
  readonly action: 'remove' | 'rebuild' | 'accept'
}

/** A segment as it will be. */
export interface PlannedSegment {
  readonly source: string
  /** Its name, another one when numbers before it are missing. */
  readonly target: string
  /** Whether its bytes change. */
  readonly isChanged: boolean
  /** Line 1 as it will be, `\n` included. */
  readonly header: string
  readonly from: number
  readonly end: number
  /** Lines behind the header, bad ones too, of which any are kept. */
  readonly limit: number
  /** All of it, as it will be: held against what is written. */
  readonly prefix: SegmentPrefix
}

/** What a repair would do. Nothing is changed by making one. */
export interface RepairPlan {
  readonly choice: RepairChoice
  readonly check: CheckLine
  readonly segments: readonly PlannedSegment[]
  /** Names of segment files that go, oldest first. */
  readonly removals: readonly string[]
  readonly removesSeal: boolean
  /** The first {@link mostFindings} of them. */
  readonly findings: readonly RepairFinding[]
  readonly findingCount: number
  /** Bad lines that go. */
  readonly dropped: { readonly lines: number; readonly bytes: number }
  /** What goes because of where the journal is cut. */
  readonly cut:
    | { readonly records: number; readonly bytes: number; readonly first: number; readonly last: number }
    | undefined
  /** Records that get another sequence number, and the first of those as it is now. */
  readonly renumbered:
    { readonly records: number; readonly first: number; readonly becomes: number } | undefined
  /**
   * The lowest sequence number, as they are now, from which on something is lost, missing or renumbered, the
   * cut aside.
   */
  readonly firstDamaged: number | undefined
  /** Records that numbers or the seal tell of and that were not there any more: no loss by the repair. */
  readonly recordsGone: number
  /** Records that stay. */
  readonly records: number
  readonly firstSequence: number
  /** Of the journal as it is now, bad lines counted. */
  readonly lastSequenceNow: number
}

/** More are counted and not listed: a disk full of garbage must not fill the memory. */
export const mostFindings = 1000

/** Whether there is nothing to mend and nothing to cut. */
export function isSound(plan: RepairPlan): boolean {
  return plan.findingCount === 0 && plan.cut === undefined
}

/** Whether something is lost or renumbered, so that a person must have chosen how. */
export function isLossy(plan: RepairPlan): boolean {
  return plan.firstDamaged !== undefined || plan.cut !== undefined
}

/** Why a plan cannot be carried out; undefined when it can. */
export interface RepairRefusal {
  /** `choice` when another choice would do; `damage` when no choice would. */
  readonly because: 'choice' | 'damage'
  readonly message: string
}

export function refusalOf(plan: RepairPlan): RepairRefusal | undefined {
  const { choice, firstSequence, lastSequenceNow, firstDamaged, records } = plan
  if (choice.kind === 'truncate-at') {
    const { sequence } = choice
    const most = lastSequenceNow + 1
    if (records === 0 || sequence > most) {
      const range = `from ${firstSequence + 1} to ${most}`
      const effect = records === 0 ? 'leave no record' : 'cut nothing'
      const message = `Expected a sequence number ${range}, got ${sequence}: it would ${effect}`
      return { because: 'choice', message }
    }
    if (firstDamaged === undefined) return undefined
    const message =
      `Cutting at ${sequence} would keep damage before it: the first is at sequence ${firstDamaged}. ` +
      'Cut there, or drop what is damaged'
    return { because: 'choice', message }
  }
  if (records > 0 || lastSequenceNow < firstSequence) return undefined
  return {
    because: 'damage',
    message: 'No line of the journal is a record, so nothing would be left. Is it of another codec?',
  }
}

/** A segment file as a repair finds it, whatever is wrong with it. */
export interface RepairSource {
  readonly name: string
  /** Sealed segments have a number, the active one has none. */
  readonly number: number | undefined
  /** Undefined when line 1 is no header. */
  readonly header: Header | undefined
  /** Where the records begin: behind line 1, or with it when the header is missing and it is a record. */
  readonly from: number
  readonly end: number
  /**
   * Sequence number of its first record by its header, or counted back from one that comes later; undefined
   * when only those before it can tell.
   */
  readonly firstSequence: number | undefined
}

/**
 * Every segment file of a journal, oldest first, those without a header too. An active file that holds
 * nothing or only part of a header is left out: recovery makes a new one. The caller holds the lock, or looks
 * at a journal that nobody writes to.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_CORRUPT` when two segments have one number: which of them is wrong
 *   only a person can say. `…_UNSUPPORTED_VERSION`, `…_IO`.
 */
export async function surveyForRepair(
  fs: FileSystem,
  files: JournalFiles,
  check: CheckLine,
): Promise<RepairSource[]> {
  let isActiveDamaged = false
  const report: ReportDamage = ({ segment }) => {
    if (segment === files.name) isActiveDamaged = true
  }
  const active = await inspectActive(fs, files, report)
  const { segments, names } = await surveySegments(fs, files, active, report)
  const numbered = sealedByNumber(files, names)
  const isActiveKept = active !== undefined && ('header' in active || isActiveDamaged)
  const sources: RepairSource[] = []
  for (const { name, number } of [
    ...numbered,
    ...(isActiveKept ? [{ name: files.name, number: undefined }] : []),
  ]) {
    const found = segments.find((candidate) => candidate.name === name)?.header
    // A header without a version is one that could not be read.
    const header = found?.version === '' ? undefined : found
    const { from, end } = await measure(fs, files.at(name), header === undefined ? check : undefined)
    sources.push({ name, number, header, from, end, firstSequence: header?.sequence })
  }
  return numberBackwards(fs, files, sources)
}

/**
 * Counts back from the first segment whose header says its number. Not as the survey does, which takes every
 * line 1 for a header.
 */
async function numberBackwards(
  fs: FileSystem,
  files: JournalFiles,
  sources: readonly RepairSource[],
): Promise<RepairSource[]> {
  const anchor = sources.findIndex(({ firstSequence }) => firstSequence !== undefined)
  const numbered = [...sources]
  let first = sources[anchor]?.firstSequence ?? 0
  for (let at = anchor - 1; at >= 0; at--) {
    const source = sources[at] as RepairSource
    first -= await countRecords(fs, files.at(source.name), source)
    // With more records than that allows, nothing is known but that.
    if (first >= 1) numbered[at] = { ...source, firstSequence: first }
  }
  return numbered
}

/** Lines that have a sequence number, a last one without a line feed too. */
async function countRecords(
  fs: FileSystem,
  path: string,
  { from, end }: Pick<RepairSource, 'from' | 'end'>,
): Promise<number> {
  const file = await fs.open(path, 'read')
  try {
    let lines = 0
    let last: number | undefined
    for await (const { bytes } of readRange(file, { offset: from, bytes: end - from })) {
      lines += countLines(bytes)
      last = bytes.at(-1)
    }
    return last === undefined || last === newline ? lines : lines + 1
  } finally {
    await file.close()
  }
}

const newline = 0x0a

function sealedByNumber(
  files: JournalFiles,
  names: readonly string[],
): Array<{ name: string; number: number }> {
  const numbered = names
    .flatMap((name) => {
      const number = files.sealedNumber(name)
      return number === undefined ? [] : [{ name, number }]
    })
    .toSorted((left, right) => left.number - right.number)
  for (const [at, { name, number }] of numbered.entries()) {
    const before = numbered[at - 1]
    if (before?.number !== number) continue
    const message =
      `Two segments have number ${number}: ${before.name} and ${name}. Which one belongs to the journal ` +
      'only you can say: move the other one away and try again'
    throw new MiniStoreError('ERR_MINISTORE_CORRUPT', message, { path: files.path, segment: name })
  }
  return numbered
}

/**
 * Where the records of a file begin, and where it ends.
 *
 * @param check is given when line 1 is no header: it may be a record.
 */
async function measure(
  fs: FileSystem,
  path: string,
  check: CheckLine | undefined,
): Promise<{ from: number; end: number }> {
  const file = await fs.open(path, 'read')
  try {
    const { size: end } = await file.stat()
    if (check !== undefined && (await beginsWithRecord(file, end, check))) return { from: 0, end }
    for await (const { bytes, position } of readRange(file, { offset: 0, bytes: end })) {
      const at = bytes.indexOf(newline)
      if (at !== -1) return { from: position + at + 1, end }
    }
    return { from: end, end }
  } finally {
    await file.close()
  }
}

/** Lines of a segment one behind the other, and the bad one that ends them, if one does. */
export interface LineRun {
  /** The good lines with their line feeds; valid until the next run is asked for. */
  readonly good: Buffer
  readonly lines: number
  readonly bad: BadLine | undefined
}

/** A line that is to go. */
export interface BadLine {
  /** Counted from 0, which is the segment's first record. */
  readonly index: number
  readonly offset: number
  /** Its line feed included. */
  readonly bytes: number
  readonly reason: string
  /**
   * Whether no writer writes such a line: at the very end of the active segment it is torn, and recovery's
   * affair.
   */
  readonly isUnclean: boolean
}

/** Throws unless a line is one that can be read as a record. */
export type CheckLine = (line: Buffer) => void

/** What a record is unless the journal has another codec. */
export const checkJson: CheckLine = (line) => {
  JSON.parse(line.toString())
}

/**
 * Reads the lines behind the header of a segment, good ones in runs. What is read twice with the same check
 * gives the same twice, so that a plan and its execution agree.
 *
 * @param part.from where the header ends; `part.end` what of the file is read.
 * @param part.onBytes is given every byte, in order.
 */
export async function* readLineRuns(
  file: File,
  part: {
    readonly from: number
    readonly end: number
    readonly check: CheckLine
    readonly onBytes?: (bytes: Buffer) => void
  },
): AsyncGenerator<LineRun> {
  const { from, end, check } = part
  const long = await findLongTornEnd(file, { from, end })
  const blocks = new LineBlocks(file)
  let index = 0
  try {
    for (let block; (block = await blocks.next(long?.offset ?? end)) !== undefined;) {
      part.onBytes?.(block)
      const start = blocks.offset - block.length
      // The header is in the first block.
      const lines = start < from ? block.subarray(from - start) : block
      const offset = Math.max(start, from)
      for (const run of runsOf(lines, { index, offset, check })) {
        index += run.lines + (run.bad === undefined ? 0 : 1)
        yield run
      }
    }
    if (long !== undefined) {
      const { offset, bytes, reason } = long
      if (part.onBytes !== undefined) for await (const chunk of readRange(file, long)) part.onBytes(chunk.bytes)
      yield { good: Buffer.alloc(0), lines: 0, bad: { index, offset, bytes, reason, isUnclean: true } }
      return
    }
    const { rest } = blocks
    if (rest.length === 0) return
    part.onBytes?.(rest)
    const { offset } = blocks
    if (offset < from) return
    const bad = { index, offset, bytes: rest.length, reason: 'the line has no line feed', isUnclean: true }
    yield { good: rest.subarray(0, 0), lines: 0, bad }
  } finally {
    await blocks.release()
  }
}

function* runsOf(
  block: Buffer,
  start: { readonly index: number; readonly offset: number; readonly check: CheckLine },
): Generator<LineRun> {
  const isClean = isCleanBlock(block)
  let from = 0
  let lines = 0
  let index = start.index
  for (const { line, offset } of linesOf(block)) {
    const isUnclean = !isClean && !isCleanLine(line)
    const reason = isUnclean ? describeUncleanLine(line) : problemOf(line, start.check)
    if (reason === undefined) {
      lines++
    } else {
      const bytes = line.length + 1
      const bad = { index, offset: start.offset + offset, bytes, reason, isUnclean }
      yield { good: block.subarray(from, offset), lines, bad }
      from = offset + bytes
      lines = 0
    }
    index++
  }
  if (lines > 0) yield { good: block.subarray(from), lines, bad: undefined }
}

function problemOf(line: Buffer, check: CheckLine): string | undefined {
  try {
    check(line)
    return undefined
  } catch (error) {
    return `the line is not JSON: ${messageOf(error)}`
  }
}

/** A run without the lines from `count` on; a bad line is no longer part of it. */
export function upToLine(run: LineRun, count: number): LineRun {
  if (count >= run.lines) return { ...run, bad: undefined }
  const lines = Math.max(count, 0)
  return { good: run.good.subarray(0, offsetAfterLines(run.good, lines)), lines, bad: undefined }
}

/**
 * Whether line 1 of a segment without a header is a record: then the header is missing, and no line is to go.
 * A damaged header is none, even where another codec would take any line for a record.
 */
export async function beginsWithRecord(file: File, end: number, check: CheckLine): Promise<boolean> {
  const runs = readLineRuns(file, { from: 0, end, check })
  try {
    const first = await runs.next()
    return first.done !== true && first.value.lines > 0 && !resemblesHeader(first.value.good)
  } finally {
    await runs.return(undefined)
  }
}

/** How far a header may be shifted: by a byte order mark, by bytes at its beginning that are lost. */
const mostShift = 8

/** Whether a third of what every header begins with is there, each byte in its place next to the others. */
function resemblesHeader(bytes: Buffer): boolean {
  const begin = bytes.toString('latin1', 0, headerMagic.length + mostShift)
  for (let shift = -mostShift; shift <= mostShift; shift++) {
    let same = 0
    for (let at = 0; at < headerMagic.length; at++) if (begin[at + shift] === headerMagic[at]) same++
    if (same * 3 > headerMagic.length) return true
  }
  return false
}
