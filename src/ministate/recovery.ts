import { basename } from 'node:path'

import { ignoreOutcome, isThenable } from '../async.ts'
import { ioError, isMiniStoreError, messageOf, MiniStoreError } from '../errors.ts'
import { listIfPresent } from '../fs/durable.ts'
import type { FileSystem } from '../fs/file-system.ts'
import type { SnapshotInfo, SnapStore } from '../minisnap/index.ts'
import { JournalFiles } from '../ministore/format.ts'
import type { RecoveryReport } from '../ministore/recovery.ts'
import type { Journal } from '../journal/journal.ts'
import type { Mutator, StateDefinition } from './settings.ts'
import { damageOf, isDamage } from './snapshots.ts'

/** What opening a state found and did. */
export interface StateRecovery {
  /** What opening the journal found and did; undefined for a journal that was open already. */
  readonly journal: RecoveryReport | undefined
  /** Sequence number of the snapshot that it began with; undefined when it began with the initial state. */
  readonly snapshotSequence: number | undefined
  /** Mutations that were replayed after it. */
  readonly replayed: number
  /** What was wrong with newer snapshots, or with all of them; newest first. */
  readonly damagedSnapshots: readonly MiniStoreError[]
}

/** A state ready for its manager. */
export interface RecoveredState<State> extends StateAt<State> {
  /** The snapshot that it began with. */
  readonly snapshot: SnapshotInfo | undefined
  readonly recovery: Omit<StateRecovery, 'journal'>
}

/**
 * Rebuilds the state: the newest whole snapshot, then only the journal's records after it. Whoever calls it
 * holds the journal.
 *
 * **Why it is right.** A snapshot is written when all of its mutations are durable in the journal, so none
 * can be of a later sequence number than the journal's last; state and sequence number appear in one rename.
 * A record is dropped only when the oldest kept snapshot covers it, and that one and the newer ones were
 * whole then, so from each of them the journal goes on without a gap. What does not fit is damage from
 * outside, and is refused.
 *
 * Changes nothing but for removing half-written snapshots.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_AHEAD`, `ERR_MINISTORE_STATE_GAP`,
 *   `ERR_MINISTORE_MUTATOR`, and what reading snapshots and journal fails with.
 */
export async function recoverState<State, Mutation>(
  journal: Journal<Mutation, never>,
  snapshots: SnapStore<State>,
  definition: StateDefinition<State, Mutation>,
): Promise<RecoveredState<State>> {
  await snapshots.sweep()
  const kept = await snapshots.list()
  refuseAhead(journal, kept[0])
  const { base, isSnapshot, damaged } = await restoreBase(snapshots, kept, definition)
  refuseGap(journal, base.sequence, damaged)
  const sequence = journal.lastSequence
  return {
    state: await foldTo(journal, definition, base, sequence),
    sequence,
    snapshot: isSnapshot ? kept.find((info) => info.sequence === base.sequence) : undefined,
    recovery: {
      snapshotSequence: isSnapshot ? base.sequence : undefined,
      replayed: sequence - base.sequence,
      damagedSnapshots: damaged,
    },
  }
}

/** What a state is rebuilt from. */
interface Base<State> {
  readonly base: StateAt<State>
  readonly isSnapshot: boolean
  readonly damaged: readonly MiniStoreError[]
}

/** The newest whole snapshot, or, where there is none, the initial state. */
export async function restoreBase<State>(
  snapshots: SnapStore<State>,
  kept: readonly SnapshotInfo[],
  definition: InitialState<State>,
): Promise<Base<State>> {
  try {
    const found = await snapshots.restore()
    if (found !== undefined) return { base: found, isSnapshot: true, damaged: found.damaged }
    return { base: initialStateOf(definition), isSnapshot: false, damaged: [] }
  } catch (error) {
    // Every one is damaged. What they held can be had from the journal, if it begins with the first mutation.
    if (!isDamage(error)) throw error
    const damages = await Promise.all(kept.map((info) => damageOf(snapshots, info)))
    const found = damages.filter((damage) => damage !== undefined)
    const damaged = found.length > 0 ? found : [error]
    return { base: initialStateOf(definition), isSnapshot: false, damaged }
  }
}

/**
 * To be asked before a journal is opened, and made where there is none: beside the files that are brought back an empty one
 * would be in the way. No crash leaves snapshots alone, for a journal is durable before them and keeps its active segment.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_AHEAD` when there are snapshots and no file of the journal; `…_IO`.
 */
export async function refuseLostJournal(
  fs: FileSystem,
  journalPath: string,
  snapshots: Pick<SnapStore<never>, 'list'>,
): Promise<void> {
  const files = new JournalFiles(journalPath)
  const isSegment = (name: string): boolean => name === files.name || files.sealedNumber(name) !== undefined
  const names = await listIfPresent(fs, files.directory).catch((error: unknown) => {
    throw ioError(`look for the journal ${journalPath}`, error, { path: journalPath })
  })
  if (!names.some(isSegment)) refuseAhead({ lastSequence: 0 }, (await snapshots.list())[0])
}

/**
 * A damaged one counts too: its name alone says that the journal once went so far.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_SNAPSHOT_AHEAD`.
 */
export function refuseAhead(
  { lastSequence: last }: Pick<Journal<unknown>, 'lastSequence'>,
  newest: SnapshotInfo | undefined,
): void {
  if (newest === undefined || newest.sequence <= last) return
  const { path, sequence } = newest
  const message =
    `The snapshot ${basename(path)} is of sequence ${sequence}, but the journal ends with ${last}: it is not ` +
    'the one that the snapshot was made from, or has lost its end. Bring back the files that belong together.'
  throw new MiniStoreError('ERR_MINISTORE_SNAPSHOT_AHEAD', message, { path, sequence })
}

/** @throws {MiniStoreError} `ERR_MINISTORE_STATE_GAP` when the journal does not reach back to what the state is rebuilt from. */
export function refuseGap(
  journal: Pick<Journal<unknown>, 'firstSequence'>,
  sequence: number,
  damaged: readonly MiniStoreError[],
): void {
  const first = journal.firstSequence
  if (first <= sequence + 1) return
  const newest = `the newest whole snapshot is of ${sequence}`
  const from = sequence === 0 ? 'no whole snapshot goes beyond 0' : newest
  const names = damaged.map(({ path = 'a snapshot' }) => basename(path))
  const todo =
    names.length === 0
      ? 'Bring back from a backup a snapshot that holds them, or their segments.'
      : `Damaged: ${names.join(', ')}. Bring one back whole from a backup, or the segments of the mutations.`
  const gap = `mutations ${sequence + 1} to ${first - 1} are missing`
  throw new MiniStoreError(
    'ERR_MINISTORE_STATE_GAP',
    `The journal begins with mutation ${first}, but ${from}: ${gap}. ${todo}`,
    { sequence: sequence + 1, path: damaged[0]?.path, cause: damaged[0] },
  )
}

/** A state and the sequence number of the last mutation that is in it. */
export interface StateAt<State> {
  readonly state: State
  readonly sequence: number
}

/** The part of a definition that does not depend on its mutations. */
export type InitialState<State> = Pick<StateDefinition<State, unknown>, 'initialState'>

/** @throws {TypeError} when there is none. */
export function initialStateOf<State>({ initialState }: InitialState<State>): StateAt<State> {
  const state = initialState()
  if (state === undefined || isThenable(state)) {
    if (isThenable(state)) ignoreOutcome(state)
    const got = state === undefined ? 'undefined' : 'a promise'
    throw new TypeError(`Expected \`initialState\` to give a state, got ${got}`)
  }
  return { state, sequence: 0 }
}

/**
 * The state at `to`, rebuilt from an earlier one, which may be changed in place.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_MUTATOR`; `ERR_MINISTORE_STATE_GAP` when the journal gives other
 *   records than were asked for; what reading the journal ends with.
 */
export async function foldTo<State, Mutation>(
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

function wrongRecord(expected: number, got: string): MiniStoreError {
  const message = `Expected the journal to give mutation ${expected} next, got ${got}`
  return new MiniStoreError('ERR_MINISTORE_STATE_GAP', message, { sequence: expected })
}

/**
 * The state after a mutation; the given one may be changed in place.
 *
 * @throws {MiniStoreError} `ERR_MINISTORE_MUTATOR` when the mutator throws or gives a promise; the given
 *   state may be half changed then.
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
  if (isThenable(result)) {
    ignoreOutcome(result)
    throw mutatorError(sequence, 'gave a promise, and a state cannot wait for one')
  }
  return result === undefined ? state : result
}

function mutatorError(sequence: number, what: string, cause?: unknown): MiniStoreError {
  const message = `The mutator ${what} (mutation ${sequence})`
  return new MiniStoreError('ERR_MINISTORE_MUTATOR', message, { sequence, cause })
}

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
