import { join } from 'node:path'

import { MiniStoreError } from '../errors.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { SnapStore } from '../minisnap/index.ts'
import { MiniStore } from '../ministore/ministore.ts'
import { type InitialState, initialStateOf, type StateAt } from './fold.ts'
import { mutate } from './mutation.ts'
import { journalName, type StateDefinition } from './settings.ts'
import { isDamage } from './state-snapshots.ts'

/** Each look that finds mutations gone means that a compaction has made a newer snapshot meanwhile. */
const maxLooks = 10

/**
 * The state in a directory as it is on the disk now, for one who only looks: takes no lock and changes no file, while
 * a manager has it open too, whose mutation under way may then be seen before it is durable.
 *
 * @throws {MiniStoreError} what `SnapStore.restore` and `MiniStore.entries` do; `ERR_MINISTORE_MUTATOR`;
 *   `…_SEQUENCE_GONE` when the journal does not reach back to the newest whole snapshot.
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
      const isGone = error instanceof MiniStoreError && error.code === 'ERR_MINISTORE_SEQUENCE_GONE'
      if (!isGone || look === maxLooks) throw error
    }
  }
}

async function readOnce<State, Mutation>(
  directory: string,
  definition: Pick<StateDefinition<State, Mutation>, 'initialState' | 'mutator'>,
  fileSystem: FileSystem | undefined,
): Promise<StateAt<State>> {
  const base = await restoreBase(new SnapStore<State>(directory, { fileSystem }), definition)
  let { state, sequence } = base
  const path = join(directory, journalName)
  for await (const entry of MiniStore.entries<Mutation>(path, { from: sequence + 1, fileSystem })) {
    state = mutate(definition.mutator, state, entry)
    sequence = entry.sequence
  }
  return { state, sequence }
}

async function restoreBase<State>(store: SnapStore<State>, definition: InitialState<State>): Promise<StateAt<State>> {
  try {
    return (await store.restore()) ?? initialStateOf(definition)
  } catch (error) {
    // All are damaged; the journal may still begin with the first mutation, and says so if it does not.
    if (isDamage(error)) return initialStateOf(definition)
    throw error
  }
}
