import { join } from 'node:path'

import { hasCode, type MiniStoreError } from '../errors.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { nodeFileSystem } from '../fs/node.ts'
import { isDamage, verifySnapshot } from '../minisnap/file.ts'
import { type SnapshotInfo, SnapStore } from '../minisnap/index.ts'
import { mutate, refuseAhead, refuseForeign, refuseGap, restoreBase, type StateAt } from '../ministate/recovery.ts'
import { journalName, type StateDefinition } from '../ministate/settings.ts'
import { idOf } from '../ministore/format.ts'
import { JournalViews } from '../ministore/view.ts'
import { outlineJournal } from '../maintenance/inspect.ts'
import type { Journal, JournalEntry } from '../journal/journal.ts'
import { MiniStore } from '../ministore/ministore.ts'

/**
 * A look fails if mutations are gone because a compaction has written a newer snapshot meanwhile.
 * Then the next look uses the newer snapshot.
 */
const maxLooks = 10

/**
 * Reads the state in a directory as it is on the disk now. Takes no lock and changes no file, also
 * while a manager has the state open. A mutation that the manager is still writing may be visible
 * before it is durable.
 *
 * @throws {MiniStoreError} as `SnapStore.restore` and `MiniStore.entries` do;
 *   `ERR_MINISTORE_MUTATOR`; `ERR_MINISTORE_SNAPSHOT_AHEAD`, `…_FOREIGN_JOURNAL` or `…_STATE_GAP` if
 *   journal and snapshots do not fit together.
 */
export async function readState<State, Mutation>(
  directory: string,
  definition: Pick<StateDefinition<State, Mutation>, 'initialState' | 'mutator'>,
  fileSystem?: FileSystem,
): Promise<StateAt<State>> {
  for (let look = 1; ; look++) {
    try {
      return await readOnce(directory, definition, fileSystem)
    } catch (error) {
      const isGone = hasCode(error, 'ERR_MINISTORE_SEQUENCE_GONE')
      if (!isGone || look === maxLooks) throw error
    }
  }
}

async function readOnce<State, Mutation>(
  directory: string,
  definition: Pick<StateDefinition<State, Mutation>, 'initialState' | 'mutator'>,
  fileSystem: FileSystem | undefined,
): Promise<StateAt<State>> {
  const path = join(directory, journalName)
  const store = new SnapStore<State>(directory, { fileSystem })
  // This order keeps both checks true while a manager goes on working. A snapshot is written after
  // its mutations, so snapshots are listed before the journal is read. Mutations that a compaction
  // drops are covered by a snapshot, so the snapshot is restored after the journal is read.
  const kept = await store.list()
  const journal = await boundsOf(path, fileSystem)
  refuseAhead(journal, kept[0])
  const { base, damaged } = await restoreBase(store, kept, definition)
  refuseForeign(journal, base, kept)
  refuseGap(journal, base.sequence, damaged)
  let { state, sequence } = base
  for await (const entry of MiniStore.entries(path, { from: sequence + 1, fileSystem })) {
    state = mutate(definition.mutator, state, entry as JournalEntry<Mutation>)
    sequence = entry.sequence
  }
  return { state, sequence }
}

async function boundsOf(
  path: string,
  fileSystem: FileSystem = nodeFileSystem,
): Promise<Pick<Journal<unknown>, 'id' | 'firstSequence' | 'lastSequence'>> {
  const outline = await outlineJournal(fileSystem, new JournalViews(fileSystem, path))
  return outline === undefined ? { firstSequence: 1, lastSequence: 0 } : { ...outline, id: idOf(outline.view.segments) }
}

/**
 * Reads a whole snapshot and resolves with its damage, if there is any, and with the identity of
 * its journal, if it names one. Rejects with the system error if the file cannot be read.
 */
export async function examineSnapshot(
  info: SnapshotInfo,
): Promise<{ readonly damage?: MiniStoreError; readonly journal?: string | undefined }> {
  try {
    return { journal: await verifySnapshot(nodeFileSystem, info) }
  } catch (error) {
    if (isDamage(error)) return { damage: error }
    throw error
  }
}
