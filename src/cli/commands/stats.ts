import { stat } from 'node:fs/promises'
import { basename, join } from 'node:path'

import { hasCode } from '../../errors.ts'
import { SnapStore } from '../../minisnap/index.ts'
import { journalName } from '../../ministate/settings.ts'
import { idOf } from '../../ministore/format.ts'
import { type Arguments, type Command, commonOptions } from '../command.ts'
import { CommandFailure, exitCodes } from '../errors.ts'
import type { Io } from '../io.ts'
import { outlineOf, unlessAborted } from '../journal.ts'
import { examineSnapshot } from '../read-state.ts'
import { type Page, print, table } from '../render.ts'
import { plural, sizeText, timeText, visible } from '../terminal.ts'

export const stats: Command = {
  name: 'stats',
  summary: 'shows the snapshots of a state and the journal after them',
  positionals: ['DIR'],
  options: { json: commonOptions.json },
  details: [
    'Reads each snapshot and says whether it is whole. "behind" is the number of mutations that are',
    'replayed if the state is opened from that snapshot. The exit code is 1 if a snapshot is damaged, or',
    'if snapshots and journal do not fit together.',
  ],
  examples: ['ministore stats state', 'ministore stats --json state | jq .snapshots[0].sequence'],
  run: runStats,
}

interface SnapshotFacts {
  readonly file: string
  readonly sequence: number
  readonly bytes: number
  readonly modifiedAt: string
  readonly isWhole: boolean
  /** A description of the damage; null if the snapshot is whole. */
  readonly damage: string | null
}

async function runStats(args: Arguments, io: Io): Promise<number> {
  const facts = await unlessAborted(io.signal, () => factsOf(args.positional(0)))
  await print(facts, { args, io }, linesOf)
  const isSound = facts.problem === null && facts.snapshots.every(({ isWhole }) => isWhole)
  return isSound ? exitCodes.ok : exitCodes.failed
}

async function factsOf(directory: string) {
  const store = new SnapStore(directory)
  const listed = await store.list()
  const snapshots: SnapshotFacts[] = []
  /** The journal that the newest whole snapshot names. */
  let named: string | undefined
  for (const info of listed) {
    const { path, sequence, bytes } = info
    try {
      const modifiedAt = (await stat(path)).mtime.toISOString()
      const { damage, journal } = await examineSnapshot(info)
      if (damage === undefined && snapshots.every(({ isWhole }) => !isWhole)) named = journal
      snapshots.push({
        file: basename(path), sequence, bytes, modifiedAt, isWhole: damage === undefined, damage: damage?.message ?? null,
      })
    } catch (error) {
      // The program that has the state open has removed the snapshot, so a newer one exists.
      if (!hasCode(error, 'ENOENT')) throw error
    }
  }
  const outline = await outlineOrNone(join(directory, journalName), listed.length > 0)
  const { firstSequence = 1, lastSequence = 0, view } = outline ?? {}
  const bytes = (view?.segments ?? []).reduce((sum, segment) => sum + segment.bytes, 0)
  const journal = { firstSequence, lastSequence, bytes, mutations: lastSequence - firstSequence + 1 }
  return { directory: store.directory, snapshots, journal, problem: foreignOf(named, view && idOf(view.segments)) ?? problemOf(snapshots, journal) }
}

type Facts = Awaited<ReturnType<typeof factsOf>>

function foreignOf(named: string | undefined, id: string | undefined): string | undefined {
  if (named === undefined || id === undefined || named === id) return undefined
  return `the newest whole snapshot belongs to the journal ${named}, but the journal here is ${id}`
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
    const directory = path.slice(0, -journalName.length - 1)
    const message = `There is no state in ${directory}: it has neither a snapshot nor ${journalName}`
    throw new CommandFailure(message, { cause: error })
  }
}

/** Returns the reason why the state cannot be opened, or null if none was found. */
function problemOf(
  snapshots: readonly SnapshotFacts[],
  { firstSequence: first, lastSequence: last, bytes }: Record<'firstSequence' | 'lastSequence' | 'bytes', number>,
): string | null {
  // Without a journal, the directory may be that of a `SnapStore`.
  if (bytes === 0) return null
  const [newest] = snapshots
  if (newest !== undefined && newest.sequence > last) {
    return `the snapshot of ${newest.sequence} is ahead of the journal, which ends with ${last}`
  }
  const covered = snapshots.find(({ isWhole }) => isWhole)?.sequence ?? 0
  if (first <= covered + 1) return null
  return `mutations ${covered + 1} to ${first - 1} are in no whole snapshot, and gone from the journal`
}

function linesOf({ directory, snapshots, journal, problem }: Facts, page: Page): string[] {
  const { firstSequence: first, lastSequence: last, bytes, mutations } = journal
  const { style } = page
  const found = table(
    snapshots,
    [
      { head: 'snapshot', cell: ({ file }) => file },
      { head: 'sequence', cell: ({ sequence }) => sequence, align: 'right' },
      { head: 'size', cell: (snapshot) => sizeText(snapshot.bytes), align: 'right' },
      { head: 'behind', cell: ({ sequence }) => (bytes === 0 ? '-' : Math.max(last - sequence, 0)), align: 'right' },
      {
        head: 'checksum',
        cell: ({ isWhole }) => (isWhole ? 'whole' : 'damaged'),
        style: ({ isWhole }) => (isWhole ? 'green' : 'red'),
      },
      { head: 'modified (UTC)', cell: ({ modifiedAt }) => timeText(modifiedAt), isOptional: true },
    ],
    page,
  )
  const range = last < first ? '' : ` (${first} to ${last})`
  return [
    visible(directory),
    '',
    ...(snapshots.length === 0 ? ['no snapshot: opening the state replays every mutation'] : found),
    '',
    `journal  ${bytes === 0 ? 'none' : `${plural(mutations, 'mutation')}${range}, ${sizeText(bytes)}`}`,
    ...snapshots.flatMap(({ damage }) => (damage === null ? [] : [`${style('red', 'damage')}: ${visible(damage)}`])),
    ...(problem === null ? [] : [`${style('red', 'problem')}: ${problem}`]),
  ]
}
