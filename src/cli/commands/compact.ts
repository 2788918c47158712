import { nodeFileSystem } from '../../fs/node.ts'
import { MiniStore } from '../../index.ts'
import type { JournalOutline } from '../../maintenance/inspect.ts'
import { type SnapshotInfo, SnapStore } from '../../minisnap/index.ts'
import { journalName } from '../../ministate/settings.ts'
import { damageOf } from '../../ministate/snapshots.ts'
import { locateJournal } from '../../ministore/locate.ts'
import type { Arguments } from '../arguments.ts'
import { type Command, commonOptions } from '../command.ts'
import { CommandFailure, exitCodes, UsageError } from '../exit-codes.ts'
import type { Io } from '../io.ts'
import { outlineOf, unlessAborted } from '../journal.ts'
import { shellWord } from '../terminal/shell-word.ts'
import { jsonLine, visible } from '../terminal/style.ts'
import { formatTable } from '../terminal/table.ts'
import { plural, sizeText } from '../terminal/units.ts'

export const compact: Command = {
  name: 'compact',
  summary: 'deletes old segments',
  positionals: ['JOURNAL'],
  options: {
    before: { value: 'SEQ', help: 'deletes sealed segments whose records are all below this; needed' },
    write: { help: 'does it; without it nothing is changed' },
    json: commonOptions.json,
  },
  details: [
    'Deletes whole segments only, oldest first, and never the active one: some records below SEQ may',
    'stay. Deleted records are gone for good. What stays keeps its sequence numbers.',
    'Where snapshots of a state lie beside it, what no whole one covers is not deleted. A state that has',
    'no snapshot yet cannot be told from a plain journal: it needs all of it.',
  ],
  examples: [
    'ministore compact state/journal.jsonl --before 5000',
    'ministore compact state/journal.jsonl --before 5000 --write',
  ],
  run: runCompact,
}

/** A segment that is or would be deleted. */
interface Doomed {
  readonly file: string
  readonly firstSequence: number
  readonly lastSequence: number
  readonly bytes: number
}

async function runCompact(args: Arguments, io: Io): Promise<number> {
  const path = args.positional(0)
  const before = args.integer('before')
  if (before === undefined) throw new UsageError('Expected --before SEQ, got nothing')
  const outline = await outlineOf(path, { signal: io.signal })
  const next = (outline?.lastSequence ?? 0) + 1
  if (before > next)
    throw new UsageError(`Expected --before to be at most ${next}, the next sequence number, got ${before}`)
  await unlessAborted(io.signal, () => refuseUncovered(path, before))
  const doomed = doomedSegments(outline, before)
  const isWritten = args.flag('write')
  let { firstSequence = 1 } =
    doomed.at(-1) === undefined ? (outline ?? {}) : { firstSequence: (doomed.at(-1)?.lastSequence ?? 0) + 1 }
  if (isWritten && doomed.length > 0) {
    await using store = await MiniStore.open(path)
    await store.truncateBefore(before)
    firstSequence = store.firstSequence
  }
  await io.stdout.write(
    args.flag('json')
      ? jsonText({ path, before, isWritten, doomed, firstSequence })
      : text({ doomed, isWritten, firstSequence }),
  )
  return exitCodes.ok
}

/**
 * Refuses a deletion after which the state beside the journal could not be opened.
 *
 * @throws {CommandFailure} if the state or its oldest whole snapshot needs records that would be
 *   deleted.
 */
async function refuseUncovered(path: string, before: number): Promise<void> {
  // The snapshots are in the directory of the file that a symbolic link leads to.
  const { name, directory } = await locateJournal(nodeFileSystem, path)
  if (name !== journalName) return
  const store = new SnapStore(directory)
  const snapshots = await store.list()
  if (snapshots.length === 0) return
  const oldest = await oldestWhole(store, snapshots)
  if (oldest !== undefined && before <= oldest.sequence + 1) return
  throw new CommandFailure(
    oldest === undefined
      ? `None of the snapshots in ${directory} is whole: the state needs every mutation. Try: ministore stats ${shellWord(directory)}`
      : `The state in ${directory} needs the mutations behind its oldest whole snapshot, of ${oldest.sequence}. ` +
          `The most is --before ${oldest.sequence + 1}`,
  )
}

async function oldestWhole(store: SnapStore, newestFirst: readonly SnapshotInfo[]): Promise<SnapshotInfo | undefined> {
  for (const info of newestFirst.toReversed()) if ((await damageOf(store, info)) === undefined) return info
  return undefined
}

function doomedSegments(outline: JournalOutline | undefined, before: number): Doomed[] {
  const { segments } = outline?.view ?? { segments: [] }
  return segments.flatMap(({ name, number, firstSequence, bytes }, at) => {
    const after = segments[at + 1]?.firstSequence
    if (number === undefined || after === undefined || after > before) return []
    return [{ file: name, firstSequence, lastSequence: after - 1, bytes }]
  })
}

interface Outcome {
  readonly doomed: readonly Doomed[]
  readonly isWritten: boolean
  /** The first sequence number after the deletion. */
  readonly firstSequence: number
}

function jsonText({
  path,
  before,
  isWritten,
  doomed,
  firstSequence,
}: Outcome & { readonly path: string; readonly before: number }): string {
  return jsonLine({ journal: path, before, isWritten, removed: doomed, firstSequence })
}

function text({ doomed, isWritten, firstSequence }: Outcome): string {
  if (doomed.length === 0) return 'Nothing to delete: no sealed segment has only records below that.\n'
  const records = doomed.reduce((sum, segment) => sum + segment.lastSequence - segment.firstSequence + 1, 0)
  const bytes = doomed.reduce((sum, segment) => sum + segment.bytes, 0)
  const what = `${plural(records, 'record')} in ${plural(doomed.length, 'segment')}, ${sizeText(bytes)}`
  const rows = doomed.map(({ file, firstSequence: first, lastSequence: last, bytes: size }) => [
    visible(file),
    String(first),
    String(last),
    sizeText(size),
  ])
  return [
    ...formatTable([['segment', 'first', 'last', 'size'], ...rows], [1, 2, 3]),
    '',
    `${isWritten ? 'Deleted' : 'Would delete'} ${what}.`,
    isWritten
      ? `The journal begins with ${firstSequence} now.`
      : 'Nothing was changed. To do it, say --write.',
    '',
  ].join('\n')
}
