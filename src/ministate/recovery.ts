import { basename } from 'node:path'

import { isStrayPromise } from '../async.ts'
import { foreignJournal, hasCode, ioError, messageOf, MiniStoreError } from '../errors.ts'
import { listIfPresent } from '../fs/durable.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { isDamage } from '../minisnap/file.ts'
import type { Journal } from '../journal/journal.ts'
import type { SnapshotInfo, Snapshots } from '../journal/snapshots.ts'
import { JournalFiles } from '../ministore/format.ts'
import type { RecoveryReport } from '../ministore/recovery.ts'
import type { Mutator, StateDefinition } from './settings.ts'
import { damageOf } from './snapshots.ts'

/** What opening a state found and did. */
export interface StateRecovery {
  /** The report of opening the journal. Undefined if the journal was already open. */
  readonly journal: RecoveryReport | undefined
  /**
   * Sequence number of the snapshot that the state was rebuilt from. Undefined if it was rebuilt
   * from the initial state.
   */
  readonly snapshotSequence: number | undefined
  /** Number of mutations that were replayed after that snapshot. */
  readonly replayed: number
  /** The damage of newer snapshots, or of all snapshots if none is whole. Newest first. */
  readonly damagedSnapshots: readonly MiniStoreError[]
}

/** A recovered state, ready for its manager. */
export interface RecoveredState<State> extends StateAt<State> {
  /** The snapshot that the state was rebuilt from. */
  readonly snapshot: SnapshotInfo | undefined
  readonly recovery: StateRecovery
}

/**
 * Rebuilds the state from the newest whole snapshot and only the journal's records after it. The
 * caller must hold the journal open for writing.
 *
 * **Why this is correct.** A snapshot is written only after all of its mutations are durable in the
 * journal. So no snapshot is ahead of the journal. State and sequence number appear together, in
 * one rename. A record is dropped only if the oldest kept snapshot covers it, and that snapshot and
 * the newer ones were whole at that time. So the journal continues from each of them without a gap.
 *
 * What does not fit is looked at again as long as journal or snapshots change: another process may
 * have appended and compacted between two steps. If nothing changes, it is damage from outside, and
 * is refused.
 *
 * Removes half-written snapshots and changes nothing else.
 *
 * @param report the report of opening the journal.
 * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_AHEAD`, `ERR_MINISTORE_STATE_GAP`,
 *   `ERR_MINISTORE_FOREIGN_JOURNAL`, `ERR_MINISTORE_MUTATOR`, and the errors of reading snapshots and journal.
 */
export async function recoverState<State, Mutation>(
  journal: Journal<Mutation, never>,
  snapshots: Snapshots<State>,
  definition: StateDefinition<State, Mutation>,
  report: RecoveryReport | undefined,
): Promise<RecoveredState<State>> {
  await snapshots.sweep?.()
  let seen = lookAt(journal, await snapshots.list())
  for (let look = 1; ; look++) {
    try {
      return await recoverFrom(seen.kept, { journal, snapshots, definition, report })
    } catch (error) {
      if (look === maxLooks || !hasCode(error, ...misfits)) throw error
      // In this order: a snapshot is written after its mutations, so none in the list is ahead of a
      // journal that is looked at later.
      const kept = await snapshots.list()
      await journal.refresh?.()
      const now = lookAt(journal, kept)
      if (now.key === seen.key) throw error
      seen = now
    }
  }
}

/** Errors of a journal and snapshots that do not fit together. */
const misfits = ['ERR_MINISTORE_SNAPSHOT_AHEAD', 'ERR_MINISTORE_STATE_GAP', 'ERR_MINISTORE_SEQUENCE_GONE'] as const

/** Each further look is for another compaction during the look before it. */
const maxLooks = 10

/** The snapshots, and a text that changes whenever they or the range of the journal change. */
function lookAt(
  { firstSequence, lastSequence }: Pick<Journal<unknown>, 'firstSequence' | 'lastSequence'>,
  kept: readonly SnapshotInfo[],
): { readonly kept: readonly SnapshotInfo[]; readonly key: string } {
  return { kept, key: [firstSequence, lastSequence, ...kept.map(({ sequence }) => sequence)].join() }
}

async function recoverFrom<State, Mutation>(
  kept: readonly SnapshotInfo[],
  { journal, snapshots, definition, report }: {
    readonly journal: Journal<Mutation, never>
    readonly snapshots: Snapshots<State>
    readonly definition: StateDefinition<State, Mutation>
    readonly report: RecoveryReport | undefined
  },
): Promise<RecoveredState<State>> {
  refuseAhead(journal, kept[0])
  const { base, snapshotSequence, damaged } = await restoreBase(snapshots, kept, definition)
  refuseForeign(journal, base, kept)
  const snapshot = kept.find((info) => info.sequence === snapshotSequence)
  // Another writer may have made the snapshot after the list was read.
  refuseAhead(journal, { path: snapshot?.path, sequence: base.sequence })
  refuseGap(journal, base.sequence, damaged)
  const sequence = journal.lastSequence
  return {
    state: await foldTo(journal, definition, base, sequence),
    sequence,
    snapshot,
    recovery: {
      journal: report,
      snapshotSequence,
      replayed: sequence - base.sequence,
      damagedSnapshots: damaged,
    },
  }
}

/**
 * Resolves with the state from which a later state is rebuilt: that of the newest whole snapshot,
 * or the initial state if there is none. `damaged` holds the damage that was found, as in
 * {@link StateRecovery}.
 *
 * @param kept the snapshots to examine one by one if none is whole.
 * @param atMost ignores snapshots with a greater sequence number.
 */
export async function restoreBase<State>(
  snapshots: Restorable<State>,
  kept: readonly SnapshotInfo[],
  definition: InitialState<State>,
  atMost?: number,
): Promise<{ base: StateAt<State>; snapshotSequence?: number; damaged: readonly MiniStoreError[] }> {
  try {
    const found = await snapshots.restore({ atMost })
    if (found === undefined) return { base: initialStateOf(definition), damaged: [] }
    return { base: found, snapshotSequence: found.sequence, damaged: found.damaged ?? [] }
  } catch (error) {
    // Every snapshot is damaged. If the journal still begins with the first mutation, it holds
    // everything that they held.
    if (!isDamage(error)) throw error
    const damages = await Promise.all(kept.map((info) => damageOf(snapshots, info)))
    const found = damages.filter((damage) => damage !== undefined)
    return { base: initialStateOf(definition), damaged: found.length > 0 ? found : [error] }
  }
}

/**
 * Refuses snapshots without a journal. Call this before opening the journal, because opening
 * creates a missing one. An empty journal would be in the way when its files are restored from a
 * backup.
 *
 * A crash cannot leave snapshots without a journal: a journal is durable before its snapshots, and
 * it always keeps its active segment.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_AHEAD` if there are snapshots and no journal
 *   files; `…_IO` if the directory cannot be read.
 */
export async function refuseLostJournal(
  fs: FileSystem,
  journalPath: string,
  snapshots: Pick<Snapshots<never>, 'list'>,
): Promise<void> {
  const files = new JournalFiles(journalPath)
  const isSegment = (name: string): boolean => name === files.name || files.sealedNumber(name) !== undefined
  const names = await listIfPresent(fs, files.directory).catch((error: unknown) => {
    throw ioError(`look for the journal ${journalPath}`, error, { path: journalPath })
  })
  if (!names.some(isSegment)) refuseAhead({ lastSequence: 0 }, (await snapshots.list())[0])
}

/**
 * Refuses a snapshot that is ahead of the journal. A damaged snapshot counts too: its name alone
 * shows that the journal once reached its sequence number.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_AHEAD`.
 */
export function refuseAhead(
  { lastSequence: last }: Pick<Journal<unknown>, 'lastSequence'>,
  newest: { readonly sequence: number; readonly path?: string | undefined } | undefined,
): void {
  if (newest === undefined || newest.sequence <= last) return
  const { path, sequence } = newest
  const message =
    `The snapshot ${path === undefined ? '' : `${basename(path)} `}has sequence number ${sequence}, but the journal ` +
    `ends with ${last}. The journal has lost its end, or the snapshot belongs to another journal. Restore files that belong together.`
  throw new MiniStoreError('ERR_MINISTORE_SNAPSHOT_AHEAD', message, { path, sequence })
}

/**
 * Refuses a snapshot that names another journal. One of them may name none: then an earlier version
 * wrote it.
 *
 * @param kept tells the path of the snapshot.
 * @throws {MiniStoreError} `ERR_MINISTORE_FOREIGN_JOURNAL`.
 */
export function refuseForeign(
  { id }: Pick<Journal<unknown>, 'id'>,
  { journal, sequence }: Omit<StateAt<unknown>, 'state'>,
  kept: readonly SnapshotInfo[],
): void {
  if (id === undefined || journal === undefined || id === journal) return
  const message =
    `The snapshot at ${sequence} belongs to the journal ${journal}, but the journal here is ${id}. ` +
    'Restore files that belong together.'
  throw foreignJournal(message, kept.find((info) => info.sequence === sequence)?.path)
}

/**
 * @throws {MiniStoreError} `ERR_MINISTORE_STATE_GAP` if mutations are missing between `sequence`,
 *   where the rebuild starts, and the journal's first record.
 */
export function refuseGap(
  journal: Pick<Journal<unknown>, 'firstSequence'>,
  sequence: number,
  damaged: readonly MiniStoreError[],
): void {
  const first = journal.firstSequence
  if (first <= sequence + 1) return
  const newest = `the newest whole snapshot ends with ${sequence}`
  const base = sequence === 0 ? 'no whole snapshot covers the earlier ones' : newest
  const names = damaged.map(({ path = 'a snapshot' }) => basename(path)).join(', ')
  const message =
    `The journal begins with mutation ${first}, but ${base}: mutations ${sequence + 1} to ${first - 1} are missing. ` +
    `${names && `Damaged: ${names}. `}Restore from a backup a snapshot that covers them, or their segments.`
  const [cause] = damaged
  throw new MiniStoreError('ERR_MINISTORE_STATE_GAP', message, { sequence: sequence + 1, path: cause?.path, cause })
}

/** A state and the sequence number of its last mutation. */
export interface StateAt<State> {
  readonly state: State
  readonly sequence: number
  /** Identity of the journal that its snapshot names. */
  readonly journal?: string | undefined
}

/** The part of a snapshot store from which states are rebuilt. */
export type Restorable<State> = Pick<Snapshots<State>, 'restore' | 'verify'>

/** The part of a definition that does not depend on the type of its mutations. */
type InitialState<State> = Pick<StateDefinition<State, unknown>, 'initialState'>

/** @throws {TypeError} if `initialState` returns undefined or a promise. */
export function initialStateOf<State>({ initialState }: InitialState<State>): StateAt<State> {
  const state = initialState()
  const got = state === undefined ? 'undefined' : isStrayPromise(state) ? 'a promise' : undefined
  if (got !== undefined) throw new TypeError(`Expected \`initialState\` to return a state, got ${got}`)
  return { state, sequence: 0 }
}

/**
 * Returns the state at `to`, rebuilt from the earlier state `from`, which may be changed in place.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_MUTATOR`; `ERR_MINISTORE_STATE_GAP` if the journal
 *   returns other records than requested; and the errors of reading the journal.
 */
async function foldTo<State, Mutation>(
  journal: Pick<Journal<Mutation, never>, 'entries'>,
  { mutator }: StateDefinition<State, Mutation>,
  from: StateAt<State>,
  to: number,
): Promise<State> {
  let { state, sequence } = from
  if (sequence === to) return state
  for await (const entry of journal.entries({ from: sequence + 1, to })) {
    if (entry.sequence !== sequence + 1) throw wrongRecord(sequence + 1, `mutation ${entry.sequence}`)
    state = mutate(mutator, state, entry)
    sequence = entry.sequence
  }
  if (sequence !== to) throw wrongRecord(sequence + 1, 'its end')
  return state
}

/** The error for a journal that gives another record than the next one. */
export function wrongRecord(expected: number, got: string): MiniStoreError {
  const message = `Expected the journal to give mutation ${expected} next, got ${got}`
  return new MiniStoreError('ERR_MINISTORE_STATE_GAP', message, { sequence: expected })
}

/**
 * Returns the state after a mutation. The given state may be changed in place.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_MUTATOR` if the mutator throws or returns a promise. The
 *   given state may then be half changed.
 */
export function mutate<State, Mutation>(
  mutator: Mutator<State, Mutation>,
  state: State,
  { sequence, record }: { readonly sequence: number; readonly record: Mutation },
): State {
  let result: State | void
  try {
    result = mutator(state, record, { sequence })
  } catch (error) {
    throw mutatorError(sequence, `threw: ${messageOf(error)}`, error)
  }
  if (isStrayPromise(result)) throw mutatorError(sequence, 'returned a promise, but it must be synchronous')
  return result === undefined ? state : result
}

/**
 * Works like {@link mutate}, but throws what the mutator throws, unchanged. For a mutation that is
 * not in the journal yet.
 *
 * @throws {TypeError} if the mutator returns a promise.
 */
export function tryOut<State, Mutation>(
  ...[mutator, state, { sequence, record }]: Parameters<typeof mutate<State, Mutation>>
): State {
  const result = mutator(state, record, { sequence })
  if (isStrayPromise(result)) throw new TypeError('Expected the mutator to be synchronous, but it returned a promise')
  return result === undefined ? state : result
}

function mutatorError(sequence: number, what: string, cause?: unknown): MiniStoreError {
  const message = `The mutator ${what} (mutation ${sequence})`
  return new MiniStoreError('ERR_MINISTORE_MUTATOR', message, { sequence, cause })
}

/**
 * Returns the state as it was after a mutation. The state is rebuilt from the newest whole snapshot
 * at or before the mutation, and the journal's records in between. It shares no objects with other
 * states.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_SEQUENCE_GONE` if the records or snapshots that it would
 *   be rebuilt from were dropped; `ERR_MINISTORE_FOREIGN_JOURNAL`; and the errors of reading snapshots and journal.
 */
export async function pastState<State, Mutation>(
  journal: Pick<Journal<Mutation, never>, 'id' | 'firstSequence' | 'entries'>,
  snapshots: Restorable<State>,
  definition: StateDefinition<State, Mutation>,
  sequence: number,
): Promise<State> {
  for (let tried = -1; ; ) {
    // The state before the first mutation needs no snapshot.
    const base =
      sequence === 0 ? initialStateOf(definition) : (await restoreBase(snapshots, [], definition, sequence)).base
    refuseForeign(journal, base, [])
    try {
      const first = journal.firstSequence
      if (base.sequence < sequence && first > base.sequence + 1) throw gone(first, base.sequence, sequence)
      return await foldTo(journal, definition, base, sequence)
    } catch (error) {
      // A compaction may have dropped the records in the meantime. It then left a newer snapshot,
      // which may still be old enough.
      if (!hasCode(error, 'ERR_MINISTORE_SEQUENCE_GONE') || base.sequence <= tried) throw error
      tried = base.sequence
    }
  }
}

function gone(first: number, base: number, sequence: number): MiniStoreError {
  const from = base === 0 ? 'no whole snapshot is that old' : `the nearest whole snapshot ends with ${base}`
  const message =
    `The state at ${sequence} cannot be rebuilt: ${from}, and a compaction dropped the mutations before ${first}`
  return new MiniStoreError('ERR_MINISTORE_SEQUENCE_GONE', message, { sequence })
}
