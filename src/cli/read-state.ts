import { join } from 'node:path'

import { isMiniStoreError } from '../errors.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { nodeFileSystem } from '../fs/node.ts'
import { SnapStore } from '../minisnap/index.ts'
import { mutate, refuseAhead, refuseGap, restoreBase, type StateAt } from '../ministate/recovery.ts'
import { journalName, type StateDefinition } from '../ministate/settings.ts'
import { DiskSource } from '../ministore/view.ts'
import { outlineJournal } from '../maintenance/inspect.ts'
import { MiniStore } from '../ministore/ministore.ts'

/** Each look that finds mutations gone means that a compaction has made a newer snapshot meanwhile. */
const maxLooks = 10

/**
 * The state in a directory as it is on the disk now, for one who only looks: takes no lock and changes no file, while
 * a manager has it open too, whose mutation under way may then be seen before it is durable.
 *
 * @throws {MiniStoreError} what `SnapStore.restore` and `MiniStore.entries` do; `ERR_MINISTORE_MUTATOR`;
 *   `…_SNAPSHOT_AHEAD` or `…_STATE_GAP` when journal and snapshots do not fit together.
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
      const isGone = isMiniStoreError(error, 'ERR_MINISTORE_SEQUENCE_GONE')
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
  // In this order a manager that goes on meanwhile makes neither check fail: a snapshot comes after its mutations, and what is
  // dropped is covered by one that is restored then.
  const kept = await store.list()
  const journal = await boundsOf(path, fileSystem)
  refuseAhead(journal, kept[0])
  const { base, damaged } = await restoreBase(store, kept, definition)
  refuseGap(journal, base.sequence, damaged)
  let { state, sequence } = base
  for await (const entry of MiniStore.entries<Mutation>(path, { from: sequence + 1, fileSystem })) {
    state = mutate(definition.mutator, state, entry)
    sequence = entry.sequence
  }
  return { state, sequence }
}

async function boundsOf(
  path: string,
  fileSystem: FileSystem = nodeFileSystem,
): Promise<{ readonly firstSequence: number; readonly lastSequence: number }> {
  const outline = await outlineJournal(fileSystem, new DiskSource(fileSystem, path))
  return outline ?? { firstSequence: 1, lastSequence: 0 }
}
