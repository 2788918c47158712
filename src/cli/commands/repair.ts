import { nodeFileSystem } from '../../fs/node.ts'
import {
  type CheckLine, isLossy, isSound, refusalOf, type RepairChoice, type RepairPlan,
} from '../../maintenance/repair-plan.ts'
import { planRepair } from '../../maintenance/repair-planner.ts'
import { repairJournal, type RepairResult } from '../../maintenance/repair.ts'
import { verifyJournal } from '../../maintenance/verify.ts'
import type { JournalFiles } from '../../ministore/format.ts'
import { locateJournal } from '../../ministore/locate.ts'
import { type Arguments, type Command, commonOptions } from '../command.ts'
import { CommandFailure, exitCodes, UsageError } from '../errors.ts'
import type { Io } from '../io.ts'
import { assertThere, lineCodec } from '../journal.ts'
import type { Output } from '../output.ts'
import {
  choicesText, planJson, planText, type ReportContext, resultText, snapshotsBeside, verifiedText,
} from '../repair-report.ts'
import { jsonLine, shellWord } from '../terminal.ts'

export const repair: Command = {
  name: 'repair',
  summary: 'says how damage can be mended, and with --write does it',
  positionals: ['JOURNAL'],
  options: {
    'drop-damaged': { help: 'removes bad lines; every record behind one gets a lower sequence number' },
    'truncate-at': {
      value: 'SEQ',
      help: 'removes record SEQ and everything behind it; the rest keeps its numbers',
    },
    write: { help: 'does it; without it nothing is changed' },
    'no-json': commonOptions.noJson,
    json: commonOptions.json,
  },
  details: [
    'A sequence number is a position. When a line in the middle is dropped, every record behind it moves',
    'up and is known by another number from then on: snapshots and readers that remember numbers are',
    'wrong then. With --truncate-at no number changes, but what is behind the cut is gone. So where',
    'something is lost you must choose. Snapshots of a state beside the journal that will not fit it are',
    'named: move them away before the state is opened.',
    '',
    'Before anything is changed, each file that is changed or removed is copied to <file>.broken',
    '(.broken-2 …). A repair that was cut short, by a crash or a full disk, is run again with the same',
    'options.',
  ],
  examples: [
    'ministore repair state/journal.jsonl',
    'ministore repair state/journal.jsonl --truncate-at 4711 --write',
    'ministore repair state/journal.jsonl --drop-damaged --write',
  ],
  run: runRepair,
}

async function runRepair(args: Arguments, io: Io): Promise<number> {
  const path = args.positional(0)
  const choice = choiceOf(args)
  const isJson = args.flag('json')
  // With another codec, every undamaged line is a record, whatever its text.
  const check: CheckLine | undefined = args.flag('no-json') ? () => {} : undefined
  const task = { path, choice, check, isJson, io }
  return args.flag('write') ? doRepair(task) : showPlan(task)
}

interface Task {
  readonly path: string
  /** Undefined if no choice was given on the command line. */
  readonly choice: RepairChoice | undefined
  readonly check: CheckLine | undefined
  readonly isJson: boolean
  readonly io: Io
}

function choiceOf(args: Arguments): RepairChoice | undefined {
  const sequence = args.integer('truncate-at')
  const isDropping = args.flag('drop-damaged')
  if (isDropping && sequence !== undefined)
    throw new UsageError('Expected --drop-damaged or --truncate-at, got both')
  if (sequence !== undefined) return { kind: 'truncate-at', sequence }
  return isDropping ? { kind: 'drop-damaged' } : undefined
}

async function showPlan({ path, choice, check, isJson, io }: Task): Promise<number> {
  const files = await locateJournal(nodeFileSystem, path)
  const options = { check, signal: io.signal }
  const plan = await planRepair(nodeFileSystem, files, choice ?? { kind: 'drop-damaged' }, options)
  if (plan === undefined) return nothingThere(path, isJson, io)
  if (choice !== undefined) assertPossible(plan)
  const isOpen = choice === undefined && isLossy(plan)
  const cut = isOpen ? await planCut(files, plan, options) : undefined
  const snapshots = await snapshotsBeside(files)
  if (isJson) {
    const choices = isOpen
      ? {
          dropDamaged: planJson(plan, snapshots),
          truncateAt: cut === undefined ? null : planJson(cut, snapshots),
        }
      : null
    const { findings, findingCount } = plan
    const shown = isOpen ? { findings, findingCount } : planJson(plan, snapshots)
    const state = { journal: path, isSound: isSound(plan), isWritten: false, needsChoice: isOpen }
    await io.stdout.write(jsonLine({ ...state, ...shown, choices }))
  } else {
    const context = { path, snapshots, io }
    await io.stdout.write(isOpen ? choicesText(plan, cut, context) : planText(plan, context))
  }
  return isSound(plan) ? exitCodes.ok : exitCodes.failed
}

/**
 * Plans a cut at the first damage. Returns undefined if that is not possible, for example because
 * no record would be left.
 */
async function planCut(
  files: JournalFiles,
  { firstDamaged }: RepairPlan,
  options: { readonly check: CheckLine | undefined; readonly signal: AbortSignal },
): Promise<RepairPlan | undefined> {
  if (firstDamaged === undefined) return undefined
  const plan = await planRepair(
    nodeFileSystem,
    files,
    { kind: 'truncate-at', sequence: firstDamaged },
    options,
  )
  return plan === undefined || refusalOf(plan) !== undefined ? undefined : plan
}

async function doRepair({ path, choice, check, isJson, io }: Task): Promise<number> {
  const files = await locateJournal(nodeFileSystem, path)
  await assertThere(files.directory)
  const confirm = (plan: RepairPlan): void => {
    if (choice === undefined && isLossy(plan)) {
      throw new UsageError(
        'Something would be lost, and how is yours to choose: --drop-damaged or --truncate-at SEQ. To see ' +
          `what each does: ministore repair ${shellWord(path)}`,
      )
    }
    assertPossible(plan)
  }
  const options = { choice: choice ?? ({ kind: 'drop-damaged' } as const), check, confirm, signal: io.signal }
  const context = { path, snapshots: await snapshotsBeside(files), io }
  const result = await repairJournal(nodeFileSystem, path, options)
  if (result === undefined) return nothingThere(path, isJson, io)
  if (isSound(result.plan)) {
    await io.stdout.write(isJson ? writtenJson(result, 0, context) : nothingToRepair)
    return exitCodes.ok
  }
  // The journal is changed now. The user must learn of it even if the command fails later.
  if (!isJson) await print(io.stdout, resultText(result, context))
  let damages: number | undefined
  try {
    damages = await damagesLeft(path, check !== undefined, io)
  } finally {
    const { plan } = result
    const text = isJson ? writtenJson(result, damages, context) : verifiedText({ plan, damages }, context)
    await print(io.stdout, text)
  }
  return damages === 0 ? exitCodes.ok : exitCodes.failed
}

/** Prints at once. A failure to print does not end the command here: the final flush reports it. */
async function print(output: Output, text: string): Promise<void> {
  try {
    await output.write(text)
    await output.flush()
  } catch {
    // The output keeps its failure. The state of the journal still has to be checked.
  }
}

const nothingToRepair = 'There is nothing to repair; nothing was changed.\n'

/** @param damages undefined if the check did not finish. */
function writtenJson(
  { plan, copies }: RepairResult,
  damages: number | undefined,
  { path, snapshots }: Pick<ReportContext, 'path' | 'snapshots'>,
): string {
  const facts = {
    journal: path,
    isSound: damages === undefined ? null : damages === 0,
    isWritten: !isSound(plan),
    isVerified: damages !== undefined,
    needsChoice: false,
    ...planJson(plan, snapshots),
    copies,
    damageCount: damages ?? null,
  }
  return jsonLine(facts)
}

/** Returns the number of damages that remain, as `verify` counts them. */
async function damagesLeft(path: string, isOtherCodec: boolean, io: Io): Promise<number> {
  const codec = isOtherCodec ? lineCodec({ isJson: false }) : undefined
  const found = await verifyJournal(nodeFileSystem, path, { onDamage: () => {}, codec, signal: io.signal })
  return found?.damages ?? 0
}

/** @throws {UsageError | CommandFailure} if the plan cannot be carried out. */
function assertPossible(plan: RepairPlan): void {
  const refusal = refusalOf(plan)
  if (refusal === undefined) return
  if (refusal.because === 'choice') throw new UsageError(refusal.message)
  throw new CommandFailure(`${refusal.message} Then say --no-json`)
}

async function nothingThere(path: string, isJson: boolean, io: Io): Promise<number> {
  await assertThere(path)
  const facts = {
    journal: path,
    isSound: true,
    isWritten: false,
    needsChoice: false,
    findings: [],
    findingCount: 0,
  }
  await io.stdout.write(
    isJson
      ? jsonLine(facts)
      : 'The journal is empty: the next open writes its header. There is nothing to repair.\n',
  )
  return exitCodes.ok
}
