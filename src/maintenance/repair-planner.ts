import type { File, FileSystem } from '../fs/file-system.ts'
import {
  countLines, extendPrefix, formatHeader, headerPrefix, type JournalFiles, maxSequence, readSeal, samePrefix,
  type SegmentPrefix,
} from '../ministore/format.ts'
import { missingActiveDamage, scanSegment } from '../ministore/scan.ts'
import {
  type BadLine, checkJson, type CheckLine, type LineRun, mostFindings, type PlannedSegment, readLineRuns,
  type RepairChoice, type RepairFinding, type RepairPlan, type RepairSource, surveyForRepair, upToLine,
} from './repair-plan.ts'

/** Takes the segments of a journal one after another, oldest first, and decides what becomes of each. */
export class RepairPlanner {
  readonly #files: JournalFiles
  readonly #check: CheckLine
  readonly #seal: SegmentPrefix | undefined
  readonly #choice: RepairChoice
  /** Sequence number from which on everything goes. */
  readonly #cutAt: number
  readonly #segments: PlannedSegment[] = []
  readonly #removals: string[] = []
  readonly #ledger: RepairLedger
  /** The next sequence number as the journal is now, bad lines counted, and as it will be. */
  #nextNow: number | undefined
  #next: number | undefined
  #previous:
    | { readonly name: string; readonly crc32: number; readonly first: number; readonly isBad: boolean }
    | undefined
  #doesSealFit = true

  constructor(
    files: JournalFiles,
    options: {
      readonly choice: RepairChoice
      readonly check: CheckLine
      readonly seal: SegmentPrefix | undefined
    },
  ) {
    this.#files = files
    this.#check = options.check
    this.#seal = options.seal
    this.#choice = options.choice
    // A record beyond the last sequence number cannot stay, whatever the choice.
    this.#cutAt = options.choice.kind === 'truncate-at' ? options.choice.sequence : maxSequence + 1
    this.#ledger = new RepairLedger(this.#cutAt)
  }

  /** Takes the next segment, whose file is open for reading. */
  async add(source: RepairSource, file: File, signal: AbortSignal | undefined): Promise<void> {
    const first = this.#firstOf(source)
    this.#checkPlace(source, first)
    const header = this.#headerOf(source, first)
    const limit = Math.max(this.#cutAt - first, 0)
    const taken = await this.#takeLines(source, file, { first, limit, header, signal })
    const { prefix, lines, raw, hasBad } = taken
    const isCounted = source.header === undefined && (source.firstSequence ?? this.#nextNow) === undefined
    this.#nextNow = first + lines
    this.#previous = {
      name: source.name,
      crc32: raw.crc32,
      first,
      isBad: hasBad || source.header === undefined,
    }
    const doesSealFit = source.number === undefined && this.#checkSeal(source, taken)
    if (isCounted && !doesSealFit && lines > 0) {
      const reason = `nothing tells the number of its first record: it becomes ${first}`
      this.#ledger.find({ segment: source.name, sequence: first, reason, action: 'accept' })
    }
    // A sealed segment may not be empty, unless it is of version 0.1; nor may one stay of which all is cut.
    const wasEmpty = lines === 0 && source.header !== undefined && source.header.sequence === undefined
    const isEmptied = prefix.records === 0 && source.number !== undefined && !wasEmpty
    const isRemoved = limit === 0 ? this.#segments.length > 0 : isEmptied
    if (isRemoved) {
      // Is it the oldest, those behind it keep their numbers, as they do when retention deletes it.
      this.#removals.push(source.name)
      return
    }
    this.#next = (this.#next ?? first) + prefix.records
    const isChanged = prefix.bytes !== taken.soundBytes || header !== `${source.header?.text}\n`
    const target = this.#nameFor(source)
    const { name, from, end } = source
    this.#segments.push({ source: name, target, isChanged, header, from, end, limit, prefix })
  }

  /** There is no active segment, and a seal that says there was one. */
  findGoneActive(): void {
    const gone = this.#seal?.records ?? 0
    const reason = `the active segment is gone; its seal says that it held ${gone} record(s)`
    this.#ledger.find({ segment: this.#files.name, reason, action: 'accept' }, { gone })
    this.#doesSealFit = false
  }

  finish({ hasSealFile }: { readonly hasSealFile: boolean }): RepairPlan {
    const active = this.#segments.find(({ source }) => source === this.#files.name)
    // It speaks of the active segment as it is now, or of one that is not there.
    const isSealStale = !this.#doesSealFit || active === undefined || active.isChanged
    const segments = this.#segments
    const records = segments.reduce((sum, { prefix }) => sum + prefix.records, 0)
    return {
      choice: this.#choice,
      check: this.#check,
      segments,
      removals: this.#removals,
      removesSeal: hasSealFile && isSealStale,
      ...this.#ledger.entries(),
      records,
      firstSequence: (this.#next ?? 1) - records,
      lastSequenceNow: (this.#nextNow ?? 1) - 1,
    }
  }

  /** Sequence number of a segment's first record as the journal is now. */
  #firstOf({ firstSequence: said }: RepairSource): number {
    const counted = this.#nextNow ?? 1
    // One that begins earlier is right when those before it only have lines too many that go.
    return said !== undefined && (said >= counted || said === this.#next) ? said : counted
  }

  /** Holds a segment against the one before it. */
  #checkPlace(source: RepairSource, first: number): void {
    const { name, header } = source
    const expected = this.#nextNow
    const previous = this.#previous
    if (header === undefined) this.#findNoHeader(source, first)
    if (expected === undefined || previous === undefined) return
    // What is missing or too many explains a wrong checksum too.
    if (first > expected) {
      const range =
        first - 1 === expected ? `record ${expected} is` : `records ${expected} to ${first - 1} are`
      this.#ledger.find(
        { segment: name, sequence: first, reason: `${range} missing before it`, action: 'rebuild' },
        { damagedFrom: expected, gone: first - expected },
      )
      return
    }
    if ((source.firstSequence ?? first) < first) {
      const reason = `it begins with sequence ${source.firstSequence}, expected ${expected}`
      const finding = { segment: name, sequence: expected, reason, action: 'rebuild' } as const
      this.#ledger.find(finding, { damagedFrom: expected })
      return
    }
    if (header?.sequence !== undefined && header.previousCrc32 === undefined) {
      this.#ledger.find({
        segment: name,
        line: 1,
        offset: 0,
        reason: 'its header has no prev',
        action: 'rebuild',
      })
    }
    const isChained = header?.previousCrc32 === undefined || header.previousCrc32 === previous.crc32
    if (isChained || previous.isBad) return
    const reason = 'it has changed since it was sealed (wrong checksum), and no line of it shows where'
    this.#ledger.find({ segment: previous.name, sequence: previous.first, reason, action: 'accept' })
  }

  #findNoHeader({ name, from, end }: RepairSource, first: number): void {
    const at = { segment: name, line: 1, offset: 0, sequence: first }
    if (from < end) {
      const reason = from === 0 ? 'its header is missing: line 1 is a record' : 'line 1 is no header'
      this.#ledger.find({ ...at, reason, action: 'rebuild' })
      return
    }
    const reason = 'it has neither a header nor a line'
    this.#ledger.find({ ...at, bytes: end, reason, action: 'remove' }, { damagedFrom: first })
  }

  /** Line 1 as it must be: the one that is there if it is right. */
  #headerOf({ header }: RepairSource, first: number): string {
    const sequence = this.#next ?? first
    const before = this.#segments.at(-1)
    if (header !== undefined) {
      const { sequence: said, previousCrc32 } = header
      // Without a number in it, the first one must be the one that is counted from.
      const isNumbered = said === undefined ? before !== undefined || sequence === 1 : said === sequence
      const isChained = before === undefined || said === undefined || previousCrc32 === before.prefix.crc32
      if (isNumbered && isChained) return `${header.text}\n`
    }
    return formatHeader({
      sequence,
      previousCrc32: before === undefined ? header?.previousCrc32 : before.prefix.crc32,
    })
  }

  async #takeLines(
    source: RepairSource,
    file: File,
    at: {
      readonly first: number
      readonly limit: number
      readonly header: string
      readonly signal: AbortSignal | undefined
    },
  ): Promise<TakenLines> {
    const { from, end } = source
    let prefix = headerPrefix(Buffer.from(at.header))
    // The header is a line and no record. In place of one that is missing or damaged stands the one to be: it
    // is mostly what the seal has seen.
    const isHeaderNew = source.header === undefined
    let raw: SegmentPrefix = isHeaderNew ? prefix : { bytes: 0, records: -1, crc32: 0 }
    let unread = isHeaderNew ? from : 0
    const shift = raw.bytes - unread
    const checkpoint = this.#seal?.bytes ?? 0
    let atSeal = checkpoint === raw.bytes ? raw : undefined
    const onBytes = (read: Buffer): void => {
      const bytes = read.subarray(Math.min(unread, read.length))
      unread -= read.length - bytes.length
      if (checkpoint > raw.bytes && checkpoint <= raw.bytes + bytes.length) {
        const upTo = bytes.subarray(0, checkpoint - raw.bytes)
        atSeal = extendPrefix(raw, upTo, countLines(upTo))
      }
      raw = extendPrefix(raw, bytes, countLines(bytes))
    }
    const taken = { lines: 0, hasBad: false, soundBytes: end }
    const line1 = { segment: source.name, first: at.first, firstLine: from === 0 ? 1 : 2 }
    for await (const run of readLineRuns(file, { from, end, check: this.#check, onBytes })) {
      at.signal?.throwIfAborted()
      const kept = upToLine(run, at.limit - taken.lines)
      const now = at.first + taken.lines
      const isTorn = this.#isTorn(source, run, shift)
      this.#ledger.renumber({ now, becomes: (this.#next ?? at.first) + prefix.records, records: kept.lines })
      this.#ledger.cut(isTorn ? { ...run, bad: undefined } : run, kept, now)
      prefix = extendPrefix(prefix, kept.good, kept.lines)
      taken.lines += run.lines
      if (run.bad === undefined) continue
      if (isTorn) {
        taken.soundBytes = run.bad.offset
        continue
      }
      taken.lines++
      taken.hasBad = true
      if (run.bad.index < at.limit) this.#ledger.drop(run.bad, line1)
    }
    return { ...taken, prefix, raw, atSeal }
  }

  /**
   * Whether a run ends in what the next open cuts off and keeps: no damage, unless the seal covers it.
   *
   * @param shift how much further behind it was when the seal was written.
   */
  #isTorn(source: RepairSource, { bad }: LineRun, shift: number): boolean {
    if (source.number !== undefined || bad?.isUnclean !== true) return false
    return bad.offset + bad.bytes === source.end && (this.#seal?.bytes ?? 0) <= bad.offset + shift
  }

  /** Whether there is a seal and it fits. */
  #checkSeal({ name, header }: RepairSource, { atSeal, hasBad, lines }: TakenLines): boolean {
    if (this.#seal === undefined) return false
    if (atSeal !== undefined && samePrefix(atSeal, this.#seal)) return true
    this.#doesSealFit = false
    // In front of a header of version 0.1 it may be the seal of another segment.
    if (header !== undefined && header.sequence === undefined) return false
    const { records, bytes } = this.#seal
    const gone = atSeal === undefined ? Math.max(records - lines, 0) : 0
    // All else bad lines say already.
    if (hasBad && gone === 0) return false
    let reason = 'it has changed since its seal was written (wrong checksum), and no line of it shows where'
    if (gone > 0)
      reason = `its seal says that it held ${records} record(s) in ${bytes} bytes; the last ones are gone`
    else if (header === undefined)
      reason = 'its seal covers the header that was there: it cannot tell whether a record has changed'
    else if (atSeal === undefined)
      reason = 'it is shorter than when its seal was written, and no line of it shows where'
    this.#ledger.find({ segment: name, reason, action: 'accept' }, { gone })
    return false
  }

  /** Keeps numbers without a gap: the next one behind the segment kept before. */
  #nameFor({ name, number }: RepairSource): string {
    const before = this.#segments.at(-1)
    if (number === undefined || before === undefined) return name
    const expected = (this.#files.sealedNumber(before.target) ?? 0) + 1
    if (expected === number) return name
    // Unless a segment goes, the number was missing before.
    const reason = `no segment has number ${expected}`
    if (this.#removals.length === 0) this.#ledger.find({ segment: name, reason, action: 'rebuild' })
    return this.#files.sealedName(expected)
  }
}

/** What was read of a segment, and what of it stays. */
interface TakenLines {
  /** Header and lines that stay. */
  readonly prefix: SegmentPrefix
  /** Lines that have a sequence number, bad ones too. */
  readonly lines: number
  /** Whether any line is bad, which explains a wrong checksum. */
  readonly hasBad: boolean
  /** Bytes of the file, a torn end not counted. */
  readonly soundBytes: number
  /** All bytes as they are now; in place of a header that is none, the one to be. */
  readonly raw: SegmentPrefix
  readonly atSeal: SegmentPrefix | undefined
}

type Entries = Pick<
  RepairPlan,
  'findings' | 'findingCount' | 'dropped' | 'cut' | 'renumbered' | 'firstDamaged' | 'recordsGone'
>

/** Keeps count, while a repair is planned, of what is found, lost and renumbered. */
export class RepairLedger {
  readonly #cutAt: number
  readonly #findings: RepairFinding[] = []
  #findingCount = 0
  readonly #dropped = { lines: 0, bytes: 0 }
  #cut: { records: number; bytes: number; first: number; last: number } | undefined
  #renumbered: { records: number; first: number; becomes: number } | undefined
  #firstDamaged: number | undefined
  #recordsGone = 0

  /** @param cutAt sequence number from which on everything goes. */
  constructor(cutAt: number) {
    this.#cutAt = cutAt
  }

  entries(): Entries {
    return {
      findings: this.#findings,
      findingCount: this.#findingCount,
      dropped: this.#dropped,
      cut: this.#cut,
      renumbered: this.#renumbered,
      firstDamaged: this.#firstDamaged,
      recordsGone: this.#recordsGone,
    }
  }

  /**
   * Notes something to mend; what lies behind the cut goes with it and is none.
   *
   * @param effect.damagedFrom sequence number from which on records are lost, missing or renumbered.
   * @param effect.gone how many records it says that there were, and are not there.
   */
  find(
    finding: RepairFinding,
    effect: { readonly damagedFrom?: number; readonly gone?: number } = {},
  ): void {
    const { damagedFrom, gone = 0 } = effect
    if ((finding.sequence ?? 0) >= this.#cutAt) return
    this.#findingCount++
    if (this.#findings.length < mostFindings) this.#findings.push(finding)
    this.#recordsGone += gone
    if (damagedFrom !== undefined) this.#damageAt(damagedFrom)
  }

  /** Counts records that stay under another number. */
  renumber(run: { readonly now: number; readonly becomes: number; readonly records: number }): void {
    if (run.records === 0 || run.now === run.becomes) return
    this.#renumbered ??= { records: 0, first: run.now, becomes: run.becomes }
    this.#renumbered.records += run.records
    this.#damageAt(run.now)
  }

  /** Counts what of a run lies behind the cut. */
  cut(run: LineRun, kept: LineRun, first: number): void {
    const isBadCut = run.bad !== undefined && first + run.lines >= this.#cutAt
    const records = run.lines - kept.lines
    if (records === 0 && !isBadCut) return
    const bytes = run.good.length - kept.good.length + (isBadCut ? (run.bad?.bytes ?? 0) : 0)
    const last = first + run.lines + (isBadCut ? 1 : 0) - 1
    this.#cut ??= { records: 0, bytes: 0, first: first + kept.lines, last }
    this.#cut.records += records
    this.#cut.bytes += bytes
    this.#cut.last = last
  }

  /** Counts a bad line that goes, of a segment whose first record has the number `first`. */
  drop(bad: BadLine, at: { readonly segment: string; readonly first: number; readonly firstLine: number }): void {
    this.#dropped.lines++
    this.#dropped.bytes += bad.bytes
    const { offset, bytes, reason, index } = bad
    const sequence = at.first + index
    const line = at.firstLine + index
    const finding = { segment: at.segment, line, offset, bytes, sequence, reason, action: 'remove' } as const
    this.find(finding, { damagedFrom: sequence })
  }

  #damageAt(sequence: number): void {
    if (sequence < this.#cutAt) this.#firstDamaged = Math.min(this.#firstDamaged ?? sequence, sequence)
  }
}

/**
 * Reads a whole journal and says what a repair would do; undefined when there is no segment file. Changes
 * nothing.
 *
 * @param options.check throws for a line that is no record; JSON unless said otherwise.
 * @throws {MiniStoreError} as `surveyForRepair` does. The signal's reason when it is aborted.
 */
export async function planRepair(
  fs: FileSystem,
  files: JournalFiles,
  choice: RepairChoice,
  options: { readonly check?: CheckLine | undefined; readonly signal?: AbortSignal | undefined } = {},
): Promise<RepairPlan | undefined> {
  const { check = checkJson, signal } = options
  const sources = await surveyForRepair(fs, files, check)
  if (sources.length === 0) return undefined
  const seal = await readSeal(fs, files.seal)
  const planner = new RepairPlanner(files, { choice, check, seal })
  for (const source of sources) {
    const file = await fs.open(files.at(source.name), 'read')
    try {
      await planner.add(source, file, signal)
    } finally {
      await file.close()
    }
  }
  const last = sources.at(-1)
  if (last?.number !== undefined && (await isActiveGone(fs, files, last, seal))) planner.findGoneActive()
  const names = await fs.list(files.directory)
  return planner.finish({ hasSealFile: names.includes(`${files.name}.seal`) })
}

/** Whether the seal tells of an active segment that is not there, and that was none of the sealed. */
async function isActiveGone(
  fs: FileSystem,
  files: JournalFiles,
  last: RepairSource,
  seal: SegmentPrefix | undefined,
): Promise<boolean> {
  if (seal === undefined) return false
  const file = await fs.open(files.at(last.name), 'read')
  try {
    const { atCheckpoint: atSeal } = await scanSegment(file, { end: last.end, checkpoint: seal.bytes })
    return missingActiveDamage(files, seal, { atSeal }) !== undefined
  } finally {
    await file.close()
  }
}
