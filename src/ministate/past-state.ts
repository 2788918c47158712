import { isMiniStoreError, MiniStoreError } from '../errors.ts'
import type { SnapStore } from '../minisnap/index.ts'
import { foldTo, type InitialState, initialStateOf, type StateAt } from './fold.ts'
import type { Journal } from './journal.ts'
import type { StateDefinition } from './settings.ts'
import { isDamage } from './state-snapshots.ts'

/** Where a past state is rebuilt from. */
export interface PastSources<State, Mutation> {
  readonly journal: Journal<Mutation, never>
  readonly snapshots: SnapStore<State>
  readonly definition: StateDefinition<State, Mutation>
}

/**
 * The state as it was after a mutation: the newest whole snapshot at or before it, then the journal's records
 * between. It shares nothing with any other.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_SEQUENCE_GONE` when what it is rebuilt from was dropped, and what
 *   reading fails with.
 */
export async function pastState<State, Mutation>(
  { journal, snapshots, definition }: PastSources<State, Mutation>,
  sequence: number,
): Promise<State> {
  let tried = -1
  for (;;) {
    const base = await baseOf(snapshots, definition, sequence)
    try {
      const isGap = base.sequence < sequence && journal.firstSequence > base.sequence + 1
      if (isGap) throw gone(journal.firstSequence, base.sequence, sequence)
      return await foldTo(journal, definition, base, sequence)
    } catch (error) {
      // A compaction may have dropped the records meanwhile; then it left a newer snapshot, which may be
      // early enough.
      if (!isGone(error) || base.sequence <= tried) throw error
      tried = base.sequence
    }
  }
}

async function baseOf<State>(
  snapshots: SnapStore<State>,
  definition: InitialState<State>,
  sequence: number,
): Promise<StateAt<State>> {
  // Before the first mutation there is nothing to restore.
  if (sequence === 0) return initialStateOf(definition)
  try {
    return (await snapshots.restore({ atMost: sequence })) ?? initialStateOf(definition)
  } catch (error) {
    // All that are old enough are damaged; the journal may still begin with the first mutation.
    if (isDamage(error)) return initialStateOf(definition)
    throw error
  }
}

function isGone(error: unknown): boolean {
  return isMiniStoreError(error, 'ERR_MINISTORE_SEQUENCE_GONE')
}

function gone(first: number, base: number, sequence: number): MiniStoreError {
  const from = base === 0 ? 'no whole snapshot is as old' : `the nearest whole snapshot is of ${base}`
  const message =
    `The state at ${sequence} cannot be rebuilt: ${from}, and the mutations before ${first} were dropped`
  return new MiniStoreError('ERR_MINISTORE_SEQUENCE_GONE', message, { sequence })
}
