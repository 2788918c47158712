import { messageOf, type MiniStoreError } from '../errors.ts'
import { endOfData } from '../fs/bytes.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import {
  countLines, formatHeader, type Header, headerCheckpoint, type JournalFiles, maxSequence, readSeal,
  type Checkpoint,
} from '../ministore/format.ts'
import { describeUncleanLine, isCleanLine, LineBlocks, linesOf, offsetAfterLines } from '../ministore/lines.ts'
import { CheckpointPass, findTornEnd, longLineBytes, missingActiveDamage, sealDamage } from '../ministore/scan.ts'
import { newJournalId } from '../ministore/rotation.ts'
import { countLinesIn, readHeader } from '../ministore/segments.ts'

/** Options of {@link planRepair} and {@link repairJournal}. */
export interface RepairOptions {
  /** Removes this record and all after it. Without it, every line must be a record. */
  readonly truncateAt?: number | undefined
  /** Throws unless a line can be read as a record. The default expects JSON. */
  readonly check?: CheckLine | undefined
  readonly signal?: AbortSignal | undefined
}

type CheckLine = (line: Buffer) => void

/** Damage that a repair found. */
export interface RepairDamage {
  readonly segment: string
  readonly line?: number
  readonly offset?: number
  readonly sequence?: number
  readonly reason: string
}

/** What a repair would do. */
export interface RepairPlan {
  /** Damage that costs no line: the repair rebuilds a header or the seal. */
  readonly findings: readonly RepairDamage[]
  /**
   * The first damaged line or gap before the cut. Repair drops no line, so it refuses the journal.
   * The rest of the plan is then that of a cut at the obstacle.
   */
  readonly obstacle: (RepairDamage & { readonly sequence: number }) | undefined
  /** The reason why the journal cannot be cut at `truncateAt`. Undefined if it can. */
  readonly cutProblem: string | undefined
  /** The segments that stay, oldest first. */
  readonly segments: readonly PlannedSegment[]
  /** Names of the segments that are removed, oldest first. */
  readonly removals: readonly string[]
  readonly removesSeal: boolean
  /** Sequence numbers of the lines that are removed. */
  readonly cut: { readonly first: number; readonly last: number } | undefined
  readonly firstSequence: number
  /** Number of records that stay. */
  readonly records: number
}

/** A segment that stays. */
export interface PlannedSegment {
  readonly name: string
  /** The header after the repair, including its `\n`. */
  readonly header: Buffer
  readonly isHeaderNew: boolean
  /** Range of the lines in the file as it is now, including lines that will be cut. */
  readonly from: number
  readonly end: number
  readonly isCut: boolean
  /** The whole segment after the repair. */
  readonly prefix: Checkpoint
}

/** Whether there is nothing to repair and nothing to cut. */
export function isSound({ findings, obstacle, cut }: RepairPlan): boolean {
  return findings.length === 0 && obstacle === undefined && cut === undefined
}

/**
 * Reads a whole journal and plans its repair. Undefined if there is no segment file. Changes
 * nothing.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_UNSUPPORTED_VERSION` or `…_IO`.
 * @throws the reason of the signal if it is aborted.
 */
export async function planRepair(
  fs: FileSystem,
  files: JournalFiles,
  options: RepairOptions = {},
): Promise<RepairPlan | undefined> {
  const names = await fs.list(files.directory)
  const check = options.check ?? checkJson
  const sources = await findSources(fs, files, { names, check })
  const last = sources.at(-1)
  if (last === undefined) return undefined
  // As for readers: after a rotation by the Rust crate, the seal is that of an earlier segment.
  const isRotated = sources.length > 1 && last.number === undefined && last.header?.version.startsWith('0.1.')
  const seal = isRotated === true ? undefined : await readSeal(fs, files.seal)
  const planner = new RepairPlanner(files, {
    ...options, check, seal, first: await firstOf(fs, sources), id: idOfMost(sources) ?? newJournalId(),
  })
  for (const source of sources) await withFile(fs, source.path, (file) => planner.add(source, file))
  return planner.finish({ hasSealFile: names.includes(`${files.name}.seal`) })
}

const checkJson: CheckLine = (line) => {
  JSON.parse(line.toString())
}

async function withFile<T>(fs: FileSystem, path: string, use: (file: File) => Promise<T>): Promise<T> {
  const file = await fs.open(path, 'read')
  try {
    return await use(file)
  } finally {
    await file.close()
  }
}

/** A segment file as the repair finds it. */
interface Source {
  readonly name: string
  readonly path: string
  /** Undefined for the active segment. */
  readonly number: number | undefined
  /** Undefined if line 1 is not a header. */
  readonly header: Header | undefined
  /** Offset of the first record: 0 if the header is missing and line 1 is a record. */
  readonly from: number
  readonly end: number
}

/** Finds the segment files, oldest first. Leaves out an unfinished active one: recovery makes it. */
async function findSources(
  fs: FileSystem,
  files: JournalFiles,
  { names, check }: { readonly names: readonly string[]; readonly check: CheckLine },
): Promise<Source[]> {
  const sources: Source[] = []
  const active = names.includes(files.name) ? [{ name: files.name, number: undefined }] : []
  for (const { name, number } of [...files.sealedNames(names), ...active]) {
    await withFile(fs, files.at(name), async (file) => {
      let isDamaged = false
      const found = await readHeader(file, { path: files.path, segment: name }, () => (isDamaged = true))
      if (found === undefined && !isDamaged && number === undefined) return
      const header = isDamaged ? undefined : found
      const { size } = await file.stat()
      const end = number === undefined ? await endOfData(file, { from: header?.bytes ?? 0, size }) : size
      const from = header?.bytes ?? (await startOfRecords(file, end, check))
      sources.push({ name, path: files.at(name), number, header, from, end })
    })
  }
  return sources
}

/** Offset of the first record in a segment without a whole header. */
async function startOfRecords(file: File, end: number, check: CheckLine): Promise<number> {
  const blocks = new LineBlocks(file)
  try {
    const block = await blocks.next(Math.min(end, longLineBytes))
    if (block === undefined) return end
    const line = block.subarray(0, block.indexOf('\n'))
    // With another codec any line may be a record. A header that is damaged in one place still has
    // one of these words.
    const isHeader = /MINISTORE|JOURNAL v/.test(line.toString('latin1', 0, 40))
    return isHeader || problemOf(line, check) !== undefined ? line.length + 1 : 0
  } finally {
    await blocks.release()
  }
}

/**
 * The sequence number of the first record: from its header, or counted back from the first segment
 * whose header has one. Undefined if no header tells.
 */
async function firstOf(fs: FileSystem, sources: readonly Source[]): Promise<number | undefined> {
  let before = 0
  for (const source of sources) {
    const sequence = source.header?.sequence
    if (sequence !== undefined) return sequence > before ? sequence - before : undefined
    before += await withFile(fs, source.path, (file) => countRecords(file, source))
  }
  return undefined
}

/** The identity that most headers have, and of those the newest; undefined if none has one. */
function idOfMost(sources: readonly Source[]): string | undefined {
  const counts = new Map<string, number>()
  let found: string | undefined
  for (const { header } of sources) {
    if (header?.id === undefined) continue
    counts.set(header.id, (counts.get(header.id) ?? 0) + 1)
  }
  for (const [id, count] of counts) if (found === undefined || count >= (counts.get(found) ?? 0)) found = id
  return found
}

/** Counts the lines that have a sequence number, including damaged ones and one without its end. */
async function countRecords(file: File, { from, end }: Source): Promise<number> {
  const torn = await findTornEnd(file, { from, end })
  const lines = await countLinesIn(file, { offset: from, bytes: end - from })
  return torn?.isEnded === false ? lines + 1 : lines
}

function problemOf(line: Buffer, check: CheckLine): string | undefined {
  if (!isCleanLine(line)) return describeUncleanLine(line)
  try {
    check(line)
    return undefined
  } catch (error) {
    return `the line is not JSON: ${messageOf(error)}`
  }
}

interface PlannerOptions extends RepairOptions {
  readonly check: CheckLine
  readonly seal: Checkpoint | undefined
  /** Sequence number of the first record, if a header tells. */
  readonly first: number | undefined
  /** Identity of the journal. */
  readonly id: string
}

/** Takes the segments of a journal, oldest first. All stay up to the cut or the first obstacle. */
class RepairPlanner {
  readonly #files: JournalFiles
  readonly #options: PlannerOptions
  /** The first sequence number that is removed. No record can be beyond the last number. */
  readonly #cutAt: number
  readonly #firstSequence: number
  /** The sequence number after the last line read. */
  #next: number
  readonly #findings: RepairDamage[] = []
  readonly #segments: PlannedSegment[] = []
  readonly #removals: string[] = []
  #obstacle: RepairPlan['obstacle']
  #isEnded = false
  /** The segment read last, as it is now and as it will be. */
  #last: { readonly source: Source; readonly now: CheckpointPass; readonly kept: CheckpointPass } | undefined

  constructor(files: JournalFiles, options: PlannerOptions) {
    this.#files = files
    this.#options = options
    this.#cutAt = Math.min(options.truncateAt ?? maxSequence + 1, maxSequence + 1)
    this.#firstSequence = options.first ?? 1
    this.#next = this.#firstSequence
  }

  async add(source: Source, file: File): Promise<void> {
    const { name, from, end } = source
    const first = this.#next
    if (first >= this.#cutAt) this.#isEnded = true
    const problem = this.#isEnded ? undefined : this.#placeProblem(source)
    if (problem !== undefined) this.#stop({ segment: name, sequence: first, reason: problem })
    if (this.#isEnded) {
      this.#removals.push(name)
      this.#next = Math.max(first, source.header?.sequence ?? 0) + (await countRecords(file, source))
      return
    }
    const header = this.#headerOf(source)
    const isHeaderNew = header.toString() !== `${source.header?.text}\n`
    const { now, kept, lines } = await this.#read(source, file, header)
    const isCut = kept.prefix.records < lines
    if (isCut && this.#options.truncateAt === undefined) {
      this.#stop({ segment: name, sequence: this.#cutAt, reason: `it has records beyond ${maxSequence}` })
    }
    this.#isEnded ||= isCut
    this.#segments.push({ name, header, isHeaderNew, from, end, isCut, prefix: kept.prefix })
    this.#last = { source, now, kept }
    this.#next = first + lines
  }

  finish({ hasSealFile }: { readonly hasSealFile: boolean }): RepairPlan {
    const segments = this.#segments
    const records = segments.reduce((sum, { prefix }) => sum + prefix.records, 0)
    const end = this.#firstSequence + records
    const isSealRight = this.#checkSeal()
    return {
      findings: this.#findings,
      obstacle: this.#obstacle,
      cutProblem: this.#cutProblem(),
      segments,
      removals: this.#removals,
      removesSeal: hasSealFile && !isSealRight,
      cut: end < this.#next ? { first: end, last: this.#next - 1 } : undefined,
      firstSequence: this.#firstSequence,
      records,
    }
  }

  #stop(obstacle: NonNullable<RepairPlan['obstacle']>): void {
    this.#obstacle ??= obstacle
    this.#isEnded = true
  }

  /** The reason why a segment cannot stay after the one before it. */
  #placeProblem({ number, header, from, end }: Source): string | undefined {
    const said = header?.sequence
    // Nothing is missing before a segment that has the checksum of the one before it, as that one
    // is or as it will be. There, a wrong sequence number is damage to the header.
    const checksums = [this.#last?.now, this.#last?.kept].map((pass) => pass?.prefix.crc32)
    const isChained = header?.previousCrc32 !== undefined && checksums.includes(header.previousCrc32)
    if (said !== undefined && said !== this.#next && !isChained) {
      return `it begins with sequence ${said}, expected ${this.#next}`
    }
    const before = this.#last?.source.number
    if (number !== undefined && before !== undefined && number !== before + 1) {
      return `the number in its name is ${number}, expected ${before + 1}`
    }
    // A sealed segment has records, unless it is of version 0.1.
    const isEmptyAllowed = header !== undefined && (number === undefined || said === undefined)
    return from === end && !isEmptyAllowed ? 'it has no record' : undefined
  }

  /** The header that a segment must have: its own if that is right. Notes what is wrong with it. */
  #headerOf({ name, header, from }: Source): Buffer {
    const before = this.#segments.at(-1)
    const sequence = this.#next
    const said = header?.sequence
    // The number of a first segment of version 0.1 may be known from a segment that the cut removes.
    const needsNumber = said === undefined && before === undefined && sequence !== 1 && this.#options.truncateAt !== undefined
    let reason: string | undefined
    if (header === undefined) {
      const isCounted = before === undefined && this.#options.first === undefined
      reason = from === 0 ? 'its header is missing: line 1 is a record' : 'line 1 is not a header'
      if (isCounted) reason += ', and no header tells the number of the first record: it becomes 1'
    } else if (needsNumber) reason = 'its header has no sequence number'
    else if (said !== undefined && said !== sequence) reason = `its header says sequence ${said}, expected ${sequence}`
    else if (said !== undefined && before !== undefined && header.previousCrc32 !== before.prefix.crc32) {
      reason = `the checksum in its header is not that of ${before.name}, and no line shows what has changed`
    } else if (header.id !== undefined && header.id !== this.#options.id) {
      reason = `its header has the id ${header.id}, expected ${this.#options.id}`
    }
    if (reason === undefined) return Buffer.from(`${header?.text}\n`)
    this.#findings.push({ segment: name, line: 1, offset: 0, sequence, reason })
    const { id } = this.#options
    return Buffer.from(formatHeader({ sequence, id, previousCrc32: before?.prefix.crc32 ?? header?.previousCrc32 }))
  }

  /** Reads a segment: what it is now, and what of it stays. */
  async #read(
    source: Source,
    file: File,
    header: Buffer,
  ): Promise<{ readonly now: CheckpointPass; readonly kept: CheckpointPass; readonly lines: number }> {
    const { from, end } = source
    const stay = this.#cutAt - this.#next
    const stopAt = (index: number, offset: number, reason: string): void => {
      const line = index + (from === 0 ? 1 : 2)
      this.#stop({ segment: source.name, line, offset, sequence: this.#next + index, reason })
    }
    const torn = await findTornEnd(file, { from, end })
    const { check, seal, signal } = this.#options
    const now = new CheckpointPass(seal?.bytes)
    const kept = new CheckpointPass(seal?.bytes, headerCheckpoint(header))
    let lines = 0
    const blocks = new LineBlocks(file)
    try {
      for (let block; (block = await blocks.next(torn?.offset ?? end)) !== undefined; ) {
        signal?.throwIfAborted()
        const start = blocks.offset - block.length
        // The header is a whole line, so it is in the first block.
        const records = start < from ? block.subarray(from - start) : block
        now.add(block)
        let good = 0
        for (const { index, offset, line } of linesOf(records)) {
          if (this.#isEnded || lines + index >= stay) break
          const reason = problemOf(line, check)
          if (reason === undefined) good++
          else stopAt(lines + index, Math.max(start, from) + offset, reason)
        }
        kept.add(records.subarray(0, offsetAfterLines(records, good)))
        lines += countLines(records)
      }
    } finally {
      await blocks.release()
    }
    // Recovery cuts a torn end off, unless the seal covers it.
    const isTornKept = source.number !== undefined || (seal !== undefined && seal.bytes > kept.prefix.bytes)
    if (torn !== undefined && isTornKept) {
      if (lines < stay) stopAt(lines, torn.offset, torn.reason)
      lines++
    }
    return { now, kept, lines }
  }

  /** Whether the seal matches the active segment after the repair. Notes a seal that is wrong now. */
  #checkSeal(): boolean {
    const { seal } = this.#options
    if (this.#isEnded || seal === undefined || this.#last === undefined) return false
    const { source, now, kept } = this.#last
    const isActive = source.number === undefined
    const damageOf = (pass: CheckpointPass): MiniStoreError | undefined =>
      isActive
        ? sealDamage(this.#files, source, seal, pass)
        : missingActiveDamage(this.#files, seal, { atSeal: pass.atCheckpoint })
    const isRight = damageOf(kept) === undefined
    const reason = isRight ? undefined : damageOf(now)?.reason
    if (reason !== undefined) this.#findings.push({ segment: this.#files.name, reason })
    return isRight && isActive
  }

  #cutProblem(): string | undefined {
    const { truncateAt } = this.#options
    const least = this.#firstSequence + 1
    if (truncateAt === undefined) return undefined
    if (truncateAt < least || truncateAt > this.#next) {
      const effect = truncateAt < least ? 'leave no record' : 'cut nothing'
      return `Expected a sequence number from ${least} to ${this.#next}, got ${truncateAt}: it would ${effect}`
    }
    if (this.#obstacle === undefined) return undefined
    return `Cutting at ${truncateAt} would keep damage before it, at sequence ${this.#obstacle.sequence}`
  }
}
