import { basename } from 'node:path'

import { isSound, type RepairFinding, type RepairPlan } from '../maintenance/repair-plan.ts'
import type { RepairResult } from '../maintenance/repair.ts'
import { type SnapshotInfo, SnapStore } from '../minisnap/index.ts'
import { journalName } from '../ministate/settings.ts'
import type { JournalFiles } from '../ministore/format.ts'
import type { Io } from './io.ts'
import { formatTable } from './render.ts'
import { countText, plural, shellWord, sizeText, styleFor, visible } from './terminal.ts'

/** The context of a report: what it describes besides the plan, and where it is printed. */
export interface ReportContext {
  /** The path as given on the command line. */
  readonly path: string
  /** All snapshots beside the journal of a state, newest first. */
  readonly snapshots: readonly SnapshotInfo[]
  readonly io: Io
}

/** Formats a plan for programs. The field names are stable. */
export function planJson(plan: RepairPlan, snapshots: readonly SnapshotInfo[]): object {
  const { choice, findings, findingCount, dropped, cut, renumbered, removals, segments, firstDamaged } = plan
  return {
    choice: choice.kind,
    truncateAt: choice.kind === 'truncate-at' ? choice.sequence : null,
    findings,
    findingCount,
    lost: { damagedLines: dropped.lines, damagedBytes: dropped.bytes, cut: cut ?? null },
    renumbered: renumbered ?? null,
    firstDamaged: firstDamaged ?? null,
    removedFiles: removals,
    changedFiles: segments.filter(({ isChanged }) => isChanged).map(({ source }) => source),
    recordsGone: plan.recordsGone,
    recordsLeft: plan.records,
    firstSequence: plan.firstSequence,
    lastSequence: plan.firstSequence + plan.records - 1,
    unfitSnapshots: unfitSnapshots(plan, snapshots),
  }
}

/** Describes what a repair would do when no choice is open. */
export function planText(plan: RepairPlan, context: ReportContext): string {
  if (isSound(plan)) return 'There is nothing to repair.\n'
  return paragraph([
    ...findingLines(plan, context.io),
    '',
    'This would happen:',
    ...effectLines(plan, context),
    ...fileLines(plan),
    '',
    `Nothing was changed. To do it: ${commandLine(context.path, plan)}`,
  ])
}

/** Describes what each choice would do when the user has to choose. */
export function choicesText(
  plan: RepairPlan,
  cut: RepairPlan | undefined,
  context: ReportContext,
): string {
  const lines = [
    ...findingLines(plan, context.io),
    '',
    'Something is lost, and how is yours to choose. Nothing was changed.',
  ]
  for (const choice of cut === undefined ? [plan] : [plan, cut]) {
    lines.push('', commandLine(context.path, choice), ...effectLines(choice, context))
  }
  return paragraph(lines)
}

/** Describes what a repair has done. */
export function resultText({ plan, copies }: RepairResult, context: ReportContext): string {
  return paragraph([
    ...findingLines(plan, context.io),
    '',
    'Done:',
    ...effectLines(plan, context),
    `  kept   ${copies.map(visible).join(', ')}`,
  ])
}

/**
 * Describes the state of the journal after a repair.
 *
 * @param result.damages undefined if the check did not finish.
 */
export function verifiedText(
  { plan, damages }: { readonly plan: RepairPlan; readonly damages: number | undefined },
  { path, io }: Pick<ReportContext, 'path' | 'io'>,
): string {
  const style = styleFor(io.stdout, io)
  if (damages === 0) {
    const what = plan.recordsGone === 0 ? 'the journal' : 'what is left'
    return paragraph(['', `${style('green', 'ok')}: verified, ${what} is sound`])
  }
  const state = damages === undefined ? 'Not verified' : `${style('red', plural(damages, 'damage'))} left`
  return paragraph(['', `${state}: ministore verify ${shellWord(path)}`])
}

const actions: Record<RepairFinding['action'], string> = {
  remove: 'is removed',
  rebuild: 'is made anew',
  accept: 'stays as it is',
}

function findingLines({ findings, findingCount }: RepairPlan, io: Io): string[] {
  const style = styleFor(io.stdout, io)
  const rows = findings.map(({ segment, line, offset, sequence, reason, action }) => [
    visible(segment),
    ...[line, offset, sequence].map((number) => String(number ?? '-')),
    actions[action],
    visible(reason),
  ])
  if (rows.length === 0) return ['No damage stays or is mended: this only cuts.']
  const [head = '', ...lines] = formatTable(
    [['segment', 'line', 'offset', 'sequence', 'what', 'why'], ...rows],
    [1, 2, 3],
  )
  const more = findingCount - findings.length
  return [style('bold', head), ...lines, ...(more > 0 ? [`… and ${countText(more)} more`] : [])]
}

function effectLines(plan: RepairPlan, { snapshots, io }: ReportContext): string[] {
  const style = styleFor(io.stdout, io)
  const { dropped, cut, renumbered, records, recordsGone, firstSequence } = plan
  const lines: string[] = []
  if (recordsGone > 0) {
    const them = recordsGone === 1 ? 'it' : 'them'
    const text = `${plural(recordsGone, 'record')}: lost before, and no repair brings ${them} back`
    lines.push(`  gone   ${style('yellow', text)}`)
  }
  if (dropped.lines > 0)
    lines.push(`  lost   ${plural(dropped.lines, 'damaged line')}, ${sizeText(dropped.bytes)}`)
  if (cut !== undefined) {
    const range = cut.first === cut.last ? `sequence ${cut.first}` : `sequences ${cut.first} to ${cut.last}`
    lines.push(`  lost   ${range}: ${plural(cut.records, 'good record')}, ${sizeText(cut.bytes)}`)
  }
  if (dropped.lines === 0 && cut === undefined)
    lines.push(`  lost   nothing ${recordsGone === 0 ? 'that is there' : 'more'}`)
  if (renumbered !== undefined) {
    const { first, becomes } = renumbered
    const moved = plural(renumbered.records, 'record')
    const text = `${moved} GET OTHER SEQUENCE NUMBERS: ${first} becomes ${becomes}, and so on`
    lines.push(`  moved  ${style('yellow', text)}`)
    lines.push('         Snapshots and readers that remember sequence numbers are wrong from there on.')
  }
  const range = records === 0 ? '' : ` (${firstSequence} to ${firstSequence + records - 1})`
  lines.push(`  stay   ${plural(records, 'record')}${range}`)
  const unfit = unfitSnapshots(plan, snapshots)
  for (const problem of ['ahead', 'renumbered'] as const) {
    const names = unfit.filter((snapshot) => snapshot.problem === problem).map(({ file }) => file)
    if (names.length > 0)
      lines.push(`  state  ${style('yellow', `move ${names.map(visible).join(', ')} away`)}: ${problems[problem]}`)
  }
  return lines
}

const problems: Record<UnfitSnapshot['problem'], string> = {
  ahead: 'ahead of the journal, and the state does not open beside it',
  renumbered: 'of numbers that change, and the state would miss records',
}

function fileLines({ segments, removals, removesSeal }: RepairPlan): string[] {
  const changed = segments.filter(({ isChanged }) => isChanged).map(({ source }) => source)
  const renamed = segments
    .filter(({ source, target }) => source !== target)
    .map(({ source, target }) => `${source} to ${target}`)
  const kinds: ReadonlyArray<readonly [string, readonly string[]]> = [
    ['  files  changed:', changed],
    ['  files  removed:', removals],
    ['  files  renamed:', renamed],
    ['  files  made anew:', removesSeal ? ['the seal'] : []],
  ]
  return kinds.flatMap(([label, names]) =>
    names.length === 0 ? [] : [`${label} ${names.map(visible).join(', ')}`],
  )
}

function commandLine(path: string, { choice }: RepairPlan): string {
  const how = choice.kind === 'drop-damaged' ? '--drop-damaged' : `--truncate-at ${choice.sequence}`
  return `ministore repair ${shellWord(path)} ${how} --write`
}

function paragraph(lines: readonly string[]): string {
  return `${lines.join('\n')}\n`
}

/** A snapshot that will not fit its journal after the repair. */
export interface UnfitSnapshot {
  readonly file: string
  readonly sequence: number
  /**
   * `ahead`: the snapshot is beyond the journal's end, and the state does not open. `renumbered`:
   * the records after the snapshot get other numbers, and the state would open without some of
   * them.
   */
  readonly problem: 'ahead' | 'renumbered'
}

/**
 * Returns the snapshots beside a journal that may belong to a state, newest first, including
 * damaged ones.
 */
export async function snapshotsBeside(files: JournalFiles): Promise<readonly SnapshotInfo[]> {
  return files.name === journalName ? new SnapStore(files.directory).list() : []
}

/**
 * Returns the snapshots that will not fit, in the given order. Damaged snapshots are included,
 * because the name alone puts a snapshot ahead.
 */
export function unfitSnapshots(plan: RepairPlan, snapshots: readonly SnapshotInfo[]): UnfitSnapshot[] {
  const { firstSequence, records, renumbered } = plan
  const last = firstSequence + records - 1
  // A snapshot just below the first newly assigned number still fits: the same records follow it,
  // except those that the repair drops.
  const firstAnew = renumbered?.becomes ?? Number.POSITIVE_INFINITY
  return snapshots.flatMap(({ sequence, path }) => {
    if (sequence <= last && sequence < firstAnew) return []
    return [{ file: basename(path), sequence, problem: sequence > last ? 'ahead' : 'renumbered' }]
  })
}
