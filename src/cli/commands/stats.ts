import { stat } from 'node:fs/promises'
import { basename, join } from 'node:path'

import { hasCode, isMiniStoreError } from '../../errors.ts'
import { type SnapshotInfo, SnapStore } from '../../minisnap/index.ts'
import { journalName } from '../../ministate/settings.ts'
import { damageOf } from '../../ministate/snapshots.ts'
import type { Arguments } from '../arguments.ts'
import { type Command, commonOptions } from '../command.ts'
import { CommandFailure, exitCodes } from '../exit-codes.ts'
import type { Io } from '../io.ts'
import { outlineOf, unlessAborted } from '../journal.ts'
import { jsonLine, type Style, styleFor, visible } from '../terminal/style.ts'
import { formatTable } from '../terminal/table.ts'
import { plural, sizeText } from '../terminal/units.ts'

export const stats: Command = {
  name: 'stats',
  summary: 'shows the snapshots of a state, and what its journal has behind them',
  positionals: ['DIR'],
  options: { json: commonOptions.json },
  details: [
    'Reads each snapshot and says whether it is whole. "behind" is how many mutations opening the state',
    'from that snapshot replays. The exit code is 1 when a snapshot is damaged, or when snapshots and',
    'journal do not fit together.',
  ],
  examples: ['ministore stats state', 'ministore stats --json state | jq .snapshots[0].sequence'],
  run: runStats,
}

interface SnapshotFacts extends SnapshotInfo {
  readonly modifiedAt: string
  /** A description of the damage; undefined if the snapshot is whole. */
  readonly damage: string | undefined
}

interface StateFacts {
  readonly directory: string
  readonly snapshots: readonly SnapshotFacts[]
  readonly journal: {
    readonly firstSequence: number
    readonly lastSequence: number
    readonly bytes: number
  }
  /** The reason why the state cannot be opened; undefined if none was found. */
  readonly problem: string | undefined
}

async function runStats(args: Arguments, io: Io): Promise<number> {
  const facts = await unlessAborted(io.signal, () => factsOf(args.positional(0)))
  await io.stdout.write(args.flag('json') ? jsonLine(jsonOf(facts)) : textOf(facts, styleFor(io.stdout, io)))
  const isSound = facts.problem === undefined && facts.snapshots.every(({ damage }) => damage === undefined)
  return isSound ? exitCodes.ok : exitCodes.failed
}

async function factsOf(directory: string): Promise<StateFacts> {
  const store = new SnapStore(directory)
  const listed = await store.list()
  const snapshots: SnapshotFacts[] = []
  for (const info of listed) {
    try {
      const modifiedAt = (await stat(info.path)).mtime.toISOString()
      snapshots.push({ ...info, modifiedAt, damage: (await damageOf(store, info))?.message })
    } catch (error) {
      // The program that has the state open has removed the snapshot, so a newer one exists.
      if (!isGone(error)) throw error
    }
  }
  const outline = await outlineOrNone(join(directory, journalName), listed.length > 0)
  const { firstSequence = 1, lastSequence = 0, view } = outline ?? {}
  const bytes = (view?.segments ?? []).reduce((sum, segment) => sum + segment.bytes, 0)
  const journal = { firstSequence, lastSequence, bytes }
  return { directory: store.directory, snapshots, journal, problem: problemOf(snapshots, journal) }
}

function isGone(error: unknown): boolean {
  return hasCode(error, 'ENOENT') || (isMiniStoreError(error) && hasCode(error.cause, 'ENOENT'))
}

/**
 * Returns undefined for a directory that holds only snapshots, such as that of a `SnapStore`.
 *
 * @throws {CommandFailure} if there is neither a journal nor a snapshot.
 */
async function outlineOrNone(path: string, hasSnapshots: boolean): ReturnType<typeof outlineOf> {
  try {
    return await outlineOf(path)
  } catch (error) {
    if (!(error instanceof CommandFailure)) throw error
    if (hasSnapshots) return undefined
    throw new CommandFailure(`There is no state in ${path.slice(0, -journalName.length - 1)}: neither a snapshot nor ${journalName}`, { cause: error })
  }
}

function problemOf(snapshots: readonly SnapshotFacts[], journal: StateFacts['journal']): string | undefined {
  const { firstSequence: first, lastSequence: last, bytes } = journal
  if (bytes === 0) return undefined
  const [newest] = snapshots
  if (newest !== undefined && newest.sequence > last) {
    return `the snapshot of ${newest.sequence} is ahead of the journal, which ends with ${last}`
  }
  const covered = snapshots.find(({ damage }) => damage === undefined)?.sequence ?? 0
  return first > covered + 1 ? `mutations ${covered + 1} to ${first - 1} are in no whole snapshot, and gone from the journal` : undefined
}

function jsonOf({ directory, snapshots, journal, problem }: StateFacts): object {
  return {
    directory,
    snapshots: snapshots.map(({ sequence, path, bytes, modifiedAt, damage }) => ({
      file: basename(path),
      sequence,
      bytes,
      modifiedAt,
      isWhole: damage === undefined,
      damage: damage ?? null,
    })),
    journal: { ...journal, mutations: journal.lastSequence - journal.firstSequence + 1 },
    problem: problem ?? null,
  }
}

function textOf({ directory, snapshots, journal, problem }: StateFacts, style: Style): string {
  const { firstSequence: first, lastSequence: last, bytes } = journal
  const rows = snapshots.map(({ sequence, path, bytes: size, modifiedAt, damage }) => [
    visible(basename(path)),
    String(sequence),
    sizeText(size),
    bytes === 0 ? '-' : String(Math.max(last - sequence, 0)),
    damage === undefined ? style('green', 'whole') : style('red', 'damaged'),
    modifiedAt.replace('T', ' ').slice(0, 19),
  ])
  const [head = '', ...lines] = formatTable([['snapshot', 'sequence', 'size', 'behind', 'checksum', 'modified (UTC)'], ...rows], [1, 2, 3])
  const mutations = `${plural(last - first + 1, 'mutation')}${last < first ? '' : ` (${first} to ${last})`}, ${sizeText(bytes)}`
  return [
    visible(directory),
    '',
    ...(rows.length === 0 ? ['no snapshot: opening replays every mutation'] : [style('bold', head), ...lines]),
    '',
    bytes === 0 ? 'journal  none' : `journal  ${mutations}`,
    ...snapshots.flatMap(({ damage }) => (damage === undefined ? [] : [`${style('red', 'damage')}: ${visible(damage)}`])),
    ...(problem === undefined ? [] : [`${style('red', 'problem')}: ${problem}`]),
    '',
  ].join('\n')
}
