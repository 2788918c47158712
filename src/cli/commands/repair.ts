import { basename } from 'node:path'

import { nodeFileSystem } from '../../fs/node.ts'
import { isSound, planRepair, type RepairOptions, type RepairPlan } from '../../maintenance/repair-plan.ts'
import { repairJournal } from '../../maintenance/repair.ts'
import { verifyJournal } from '../../maintenance/verify.ts'
import { SnapStore } from '../../minisnap/index.ts'
import { journalName } from '../../ministate/settings.ts'
import { maxSequence } from '../../ministore/format.ts'
import { locateJournal } from '../../ministore/segments.ts'
import { type Arguments, type Command, commonOptions } from '../command.ts'
import { CommandFailure, exitCodes, UsageError } from '../errors.ts'
import type { Io } from '../io.ts'
import { assertThere, lineCodec } from '../journal.ts'
import { type Page, print, table } from '../render.ts'
import { plural, shellWord, visible } from '../terminal.ts'

export const repair: Command = {
  name: 'repair',
  summary: 'shows how damage can be repaired; --write repairs it',
  positionals: ['JOURNAL'],
  options: {
    'truncate-at': { value: 'SEQ', help: 'remove record SEQ and everything after it' },
    'drop-damaged': { help: 'no longer exists: copy the good records as shown above' },
    write: commonOptions.write,
    'no-json': commonOptions.noJson,
    json: commonOptions.json,
  },
  details: [
    'If every line is a record, repair rebuilds damaged headers, the chain of checksums and the seal.',
    'It never drops a line. If a line is damaged or records are missing, cut the journal before them with',
    '--truncate-at, which keeps the sequence numbers of the records before the cut. Or copy the good',
    'records into a new journal, where they get new sequence numbers: ministore cat --salvage OLD |',
    'ministore append NEW',
    '',
    'Before anything is changed, each file that is changed or removed is copied to <file>.broken',
    '(.broken-2 and so on). If a crash or a full disk interrupts a repair, run it again with the same',
    'options.',
  ],
  examples: [
    'ministore repair journal.jsonl',
    'ministore repair journal.jsonl --write',
    'ministore repair journal.jsonl --truncate-at 4711 --write',
  ],
  run: runRepair,
}

interface Task {
  readonly path: string
  readonly options: RepairOptions
  readonly args: Arguments
  readonly io: Io
}

async function runRepair(args: Arguments, io: Io): Promise<number> {
  const path = args.positional(0)
  if (args.flag('drop-damaged')) {
    throw new UsageError(`--drop-damaged no longer exists. Cut with --truncate-at SEQ, or ${salvageAdvice(path)}`)
  }
  const truncateAt = args.integer('truncate-at', { max: maxSequence + 1 })
  // With another codec, every undamaged line is a record, whatever its text.
  const check = args.flag('no-json') ? (): void => {} : undefined
  const task = { path, options: { truncateAt, check, signal: io.signal }, args, io }
  return args.flag('write') ? doRepair(task) : showPlan(task)
}

async function showPlan(task: Task): Promise<number> {
  const files = await locateJournal(nodeFileSystem, task.path)
  const plan = await planRepair(nodeFileSystem, files, task.options)
  if (plan === undefined) return nothingThere(task)
  if (plan.cutProblem !== undefined) throw new UsageError(plan.cutProblem)
  const facts = await factsOf(plan, task)
  await print({ isSound: isSound(plan), isWritten: false, ...facts }, task, (_, page) =>
    isSound(plan) ? ['There is nothing to repair.'] : planLines(facts, task, page),
  )
  return isSound(plan) ? exitCodes.ok : exitCodes.failed
}

async function doRepair(task: Task): Promise<number> {
  const { path, options, args, io } = task
  await assertThere((await locateJournal(nodeFileSystem, path)).directory)
  const result = await repairJournal(nodeFileSystem, path, { ...options, confirm: (plan) => assertPossible(plan, path) })
  if (result === undefined) return nothingThere(task)
  const { plan, copies } = result
  const facts = await factsOf(plan, task)
  const isWritten = !isSound(plan)
  // The journal is changed now. The user must learn of it even if the command fails later.
  if (isWritten && !args.flag('json')) {
    const kept = `  kept   ${copies.map(visible).join(', ')}`
    await printNow(facts, task, (_, page) => [...damageLines(facts, page), '', 'Done:', ...effectLines(facts, page), kept])
  }
  let damageCount: number | null = null
  try {
    const codec = options.check === undefined ? undefined : lineCodec({ isJson: false })
    const found = await verifyJournal(nodeFileSystem, path, { onDamage: () => {}, codec, signal: io.signal })
    damageCount = found?.damages ?? 0
  } finally {
    const isVerified = damageCount !== null
    const state = { isSound: isVerified ? damageCount === 0 : null, isWritten, isVerified, damageCount }
    await printNow({ ...state, ...facts, copies }, task, ({ damageCount: damages }, { style }) => {
      if (!isWritten && damages === 0) return ['There is nothing to repair; nothing was changed.']
      if (damages === 0) return ['', `${style('green', 'ok')}: verified, the journal is sound`]
      const left = damages === null ? 'Not verified' : style('red', `damage left in ${plural(damages, 'place')}`)
      return ['', `${left}: ministore verify ${shellWord(path)}`]
    })
  }
  return damageCount === 0 ? exitCodes.ok : exitCodes.failed
}

/** Prints at once. A failure to print does not end the command here: the final flush reports it. */
async function printNow<Shown extends object>(
  shown: Shown,
  task: Task,
  linesOf: (shown: Shown, page: Page) => readonly string[],
): Promise<void> {
  try {
    await print(shown, task, linesOf)
    await task.io.stdout.flush()
  } catch {
    // The output keeps its failure. The state of the journal still has to be checked.
  }
}

/** @throws {UsageError | CommandFailure} if the plan cannot be carried out. */
function assertPossible({ cutProblem, obstacle }: RepairPlan, path: string): void {
  if (cutProblem !== undefined) throw new UsageError(cutProblem)
  if (obstacle === undefined) return
  const { segment, sequence, reason } = obstacle
  throw new CommandFailure(
    `Repair drops no line, and ${segment} is damaged at sequence ${sequence}: ${reason}. To go on, ` +
      `${salvageAdvice(path)}. Or see what a cut would remove: ministore repair ${shellWord(path)}`,
  )
}

function salvageAdvice(path: string): string {
  return `copy the good records into a new journal: ${salvageCommand(path)}`
}

function salvageCommand(path: string): string {
  return `ministore cat --salvage ${shellWord(path)} | ministore append NEW`
}

async function nothingThere({ path, args, io }: Task): Promise<number> {
  await assertThere(path)
  const facts = { journal: path, isSound: true, isWritten: false, findings: [] }
  await print(facts, { args, io }, () => [
    'The journal is empty: the next open writes its header. There is nothing to repair.',
  ])
  return exitCodes.ok
}

/** What a plan says. The field names are stable. */
interface Facts {
  readonly journal: string
  readonly truncateAt: number | null
  readonly findings: RepairPlan['findings']
  readonly obstacle: NonNullable<RepairPlan['obstacle']> | null
  /** Sequence numbers of the lines that the cut removes. */
  readonly cut: NonNullable<RepairPlan['cut']> | null
  readonly changedFiles: readonly string[]
  readonly removedFiles: readonly string[]
  readonly firstSequence: number
  readonly lastSequence: number
  readonly recordsLeft: number
  /** Snapshots of a state that would be ahead of its journal. */
  readonly snapshotsAhead: readonly string[]
}

async function factsOf(plan: RepairPlan, { path, options }: Task): Promise<Facts> {
  const { findings, obstacle = null, cut = null, segments, removals, firstSequence, records } = plan
  const lastSequence = firstSequence + records - 1
  const files = await locateJournal(nodeFileSystem, path)
  const snapshots = files.name === journalName ? await new SnapStore(files.directory).list() : []
  return {
    journal: path,
    truncateAt: options.truncateAt ?? null,
    findings,
    obstacle,
    cut,
    changedFiles: segments.filter((segment) => segment.isHeaderNew || segment.isCut).map(({ name }) => name),
    removedFiles: removals,
    firstSequence,
    lastSequence,
    recordsLeft: records,
    // Opening the state refuses a snapshot ahead of the journal by its name, whole or not.
    snapshotsAhead: snapshots.filter(({ sequence }) => sequence > lastSequence).map((one) => basename(one.path)),
  }
}

function planLines(facts: Facts, { path, options }: Task, page: Page): string[] {
  const { obstacle, truncateAt, recordsLeft } = facts
  const cutAt = truncateAt ?? obstacle?.sequence
  const cut = cutAt === undefined ? '' : ` --truncate-at ${cutAt}`
  const lines = [...damageLines(facts, page), '', 'Nothing was changed.']
  if (obstacle !== null) {
    const hint = recordsLeft === 0 && options.check === undefined ? ' If the records are not JSON, add --no-json.' : ''
    lines.push(`Repair drops no line.${hint}`)
    // `append` takes JSON only.
    if (options.check === undefined) {
      lines.push('', salvageCommand(path), '  copies every good record into a new journal, with new sequence numbers')
    }
  }
  if (recordsLeft === 0) return lines
  return [...lines, '', `ministore repair ${shellWord(path)}${cut} --write`, ...effectLines(facts, page)]
}

function damageLines({ findings, obstacle }: Facts, page: Page): string[] {
  const damages = obstacle === null ? findings : [...findings, obstacle]
  if (damages.length === 0) return ['There is no damage before the cut.']
  return table(
    damages,
    [
      { head: 'segment', cell: ({ segment }) => segment },
      { head: 'line', cell: ({ line = '-' }) => line, align: 'right' },
      { head: 'offset', cell: ({ offset = '-' }) => offset, align: 'right' },
      { head: 'sequence', cell: ({ sequence = '-' }) => sequence, align: 'right' },
      {
        head: 'repairable',
        cell: (damage) => (damage === obstacle ? 'no' : 'yes'),
        style: (damage) => (damage === obstacle ? 'red' : undefined),
      },
      { head: 'damage', cell: ({ reason }) => reason },
    ],
    page,
  )
}

function effectLines(facts: Facts, { style }: Page): string[] {
  const { cut, recordsLeft, firstSequence, lastSequence, changedFiles, removedFiles, snapshotsAhead } = facts
  const lost = cut?.first === cut?.last ? `record ${cut?.first}` : `records ${cut?.first} to ${cut?.last}`
  const rows = [
    ['lost', cut === null ? 'nothing that is there' : lost],
    ['stay', `${plural(recordsLeft, 'record')} (${firstSequence} to ${lastSequence})`],
  ]
  if (changedFiles.length > 0) rows.push(['files', `changed: ${changedFiles.map(visible).join(', ')}`])
  if (removedFiles.length > 0) rows.push(['files', `removed: ${removedFiles.map(visible).join(', ')}`])
  if (snapshotsAhead.length > 0) {
    const names = snapshotsAhead.map(visible).join(', ')
    rows.push(['state', style('yellow', `move ${names} away: ahead of the journal, so the state does not open`)])
  }
  return rows.map(([name = '', text]) => `  ${name.padEnd(5)}  ${text}`)
}
