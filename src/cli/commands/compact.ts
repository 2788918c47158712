import { nodeFileSystem } from '../../fs/node.ts'
import { MiniStore } from '../../index.ts'
import type { JournalOutline } from '../../maintenance/inspect.ts'
import { type SnapshotInfo, SnapStore } from '../../minisnap/index.ts'
import { journalName } from '../../ministate/settings.ts'
import { refuseForeign } from '../../ministate/recovery.ts'
import { idOf } from '../../ministore/format.ts'
import { locateJournal } from '../../ministore/segments.ts'
import { type Arguments, type Command, commonOptions } from '../command.ts'
import { CommandFailure, exitCodes, UsageError } from '../errors.ts'
import type { Io } from '../io.ts'
import { outlineOf, unlessAborted } from '../journal.ts'
import { examineSnapshot } from '../read-state.ts'
import { type Page, print, table } from '../render.ts'
import { plural, shellWord, sizeText } from '../terminal.ts'

export const compact: Command = {
  name: 'compact',
  summary: 'deletes old segments',
  positionals: ['JOURNAL'],
  options: {
    before: { value: 'SEQ', help: 'delete the sealed segments that hold only records before SEQ (required)' },
    write: commonOptions.write,
    json: commonOptions.json,
  },
  details: [
    'Deletes whole segments only, oldest first, and never the active one, so some records before SEQ',
    'may remain. Deleted records cannot be brought back. The remaining records keep their sequence',
    'numbers.',
    '',
    'If snapshots of a state lie beside the journal, every record that no whole snapshot covers is kept.',
    'A state without any snapshot needs all of its journal, but cannot be told from a plain journal.',
  ],
  examples: [
    'ministore compact journal.jsonl --before 5000',
    'ministore compact journal.jsonl --before 5000 --write',
  ],
  run: runCompact,
}

async function runCompact(args: Arguments, io: Io): Promise<number> {
  const path = args.positional(0)
  const before = args.integer('before')
  if (before === undefined) throw new UsageError('Expected --before SEQ, got nothing')
  const outline = await outlineOf(path, { signal: io.signal })
  const next = (outline?.lastSequence ?? 0) + 1
  if (before > next) {
    throw new UsageError(`Expected --before to be at most ${next}, the next sequence number, got ${before}`)
  }
  await unlessAborted(io.signal, () => refuseUncovered(path, before, outline && idOf(outline.view.segments)))
  const removed = segmentsBefore(before, outline)
  const isWritten = args.flag('write')
  let firstSequence = (removed.at(-1)?.lastSequence ?? (outline?.firstSequence ?? 1) - 1) + 1
  if (isWritten && removed.length > 0) {
    await using store = await MiniStore.open(path)
    await store.truncateBefore(before)
    firstSequence = store.firstSequence
  }
  await print({ journal: path, before, isWritten, removed, firstSequence }, { args, io }, linesOf)
  return exitCodes.ok
}

/**
 * Refuses a deletion after which the state beside the journal could not be opened.
 *
 * @throws {CommandFailure} if the state or its oldest whole snapshot needs records that would be
 *   deleted.
 * @throws {MiniStoreError} `ERR_MINISTORE_FOREIGN_JOURNAL` if a whole snapshot belongs to another
 *   journal.
 */
async function refuseUncovered(path: string, before: number, id: string | undefined): Promise<void> {
  // The snapshots are in the directory of the file that a symbolic link leads to.
  const { name, directory } = await locateJournal(nodeFileSystem, path)
  if (name !== journalName) return
  const store = new SnapStore(directory)
  const snapshots = await store.list()
  if (snapshots.length === 0) return
  const oldest = await oldestWhole(snapshots, id)
  if (oldest !== undefined && before <= oldest.sequence + 1) return
  throw new CommandFailure(
    oldest === undefined
      ? `No snapshot in ${directory} is whole, so the state needs every mutation. ` +
          `To see the damage: ministore stats ${shellWord(directory)}`
      : `The state in ${directory} needs the mutations after ${oldest.sequence}, its oldest whole snapshot. ` +
          `The highest possible value is --before ${oldest.sequence + 1}`,
  )
}

async function oldestWhole(
  newestFirst: readonly SnapshotInfo[],
  id: string | undefined,
): Promise<SnapshotInfo | undefined> {
  let oldest: SnapshotInfo | undefined
  for (const info of newestFirst) {
    const { damage, journal } = await examineSnapshot(info)
    if (damage !== undefined) continue
    refuseForeign({ id }, { ...info, journal }, newestFirst)
    oldest = info
  }
  return oldest
}

/** A segment that is deleted, or would be with `--write`. */
interface Removed {
  readonly file: string
  readonly firstSequence: number
  readonly lastSequence: number
  readonly bytes: number
}

function segmentsBefore(before: number, outline: JournalOutline | undefined): Removed[] {
  const { segments } = outline?.view ?? { segments: [] }
  return segments.flatMap(({ name, number, firstSequence, bytes }, at) => {
    const after = segments[at + 1]?.firstSequence
    if (number === undefined || after === undefined || after > before) return []
    return [{ file: name, firstSequence, lastSequence: after - 1, bytes }]
  })
}

interface Facts {
  readonly before: number
  readonly isWritten: boolean
  readonly removed: readonly Removed[]
  /** The first sequence number after the deletion. */
  readonly firstSequence: number
}

function linesOf({ before, isWritten, removed, firstSequence }: Facts, page: Page): string[] {
  const [first] = removed
  const last = removed.at(-1)
  if (first === undefined || last === undefined) {
    return [`Nothing to delete: no sealed segment holds only records before ${before}.`]
  }
  const records = last.lastSequence - first.firstSequence + 1
  const bytes = removed.reduce((sum, segment) => sum + segment.bytes, 0)
  const what = `${plural(records, 'record')} in ${plural(removed.length, 'segment')}, ${sizeText(bytes)}`
  return [
    ...table(
      removed,
      [
        { head: 'segment', cell: ({ file }) => file },
        { head: 'first', cell: (segment) => segment.firstSequence, align: 'right' },
        { head: 'last', cell: ({ lastSequence }) => lastSequence, align: 'right' },
        { head: 'size', cell: (segment) => sizeText(segment.bytes), align: 'right' },
      ],
      page,
    ),
    '',
    `${isWritten ? 'Deleted' : 'Would delete'} ${what}.`,
    isWritten
      ? `The journal now begins with record ${firstSequence}.`
      : 'Nothing was changed. To delete them, add --write.',
  ]
}
