import { basename } from 'node:path'

import { ioError, MiniStoreError } from '../errors.ts'
import { listIfPresent } from '../fs/durable.ts'
import type { FileSystem } from '../fs/file-system.ts'
import type { SnapshotInfo, SnapStore } from '../minisnap/index.ts'
import { JournalFiles } from '../ministore/journal-files.ts'
import type { RecoveryReport } from '../ministore/recovery.ts'
import { foldTo, type InitialState, initialStateOf, type StateAt } from './fold.ts'
import type { Journal } from './journal.ts'
import type { StateDefinition } from './settings.ts'
import { damageOf, isDamage } from './state-snapshots.ts'

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
