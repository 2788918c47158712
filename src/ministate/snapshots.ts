import { tell } from '../async.ts'
import { hasCode, MiniStoreError, poisonedBy } from '../errors.ts'
import { isDamage } from '../minisnap/file.ts'
import type { Journal } from '../journal/journal.ts'
import type { SnapshotInfo, Snapshots } from '../journal/snapshots.ts'
import type { StateAt } from './recovery.ts'
import type { StateSettings } from './settings.ts'

type Automatic = Pick<StateSettings<never, never>, 'everyMutations' | 'onError'>

/**
 * Snapshots that a compaction may rely on.
 *
 * **Invariant.** A compaction drops a record only if `oldest` covers it, and only after the
 * snapshot of the current state is durable. Every kept whole snapshot therefore has the journal's
 * records right after it.
 */
interface AssuredSnapshots {
  /** The oldest whole snapshot. */
  readonly oldest: SnapshotInfo
  /** All existing snapshots, newest first, damaged ones included. */
  readonly kept: readonly SnapshotInfo[]
  /** The damage that was found, one error per damaged snapshot, newest first. */
  readonly damaged: readonly MiniStoreError[]
}

/** The snapshots of one state manager, and when the next one is due. Calls must not overlap. */
export class StateSnapshots<State> {
  readonly #store: Snapshots<State>
  readonly #automatic: Automatic
  /** The journal whose mutations made the states. */
  readonly #journal: Pick<Journal<unknown>, 'id'>
  /** The newest snapshot that is known to be whole. */
  #newest: SnapshotInfo | undefined
  /** Sequence number of the last snapshot that was made or attempted. */
  #lastTried: number

  constructor(
    store: Snapshots<State>,
    automatic: Automatic,
    restored: SnapshotInfo | undefined,
    journal: Pick<Journal<unknown>, 'id'>,
  ) {
    this.#store = store
    this.#journal = journal
    this.#automatic = automatic
    this.#newest = restored
    this.#lastTried = restored?.sequence ?? 0
  }

  isDue(sequence: number): boolean {
    return sequence - this.#lastTried >= this.#automatic.everyMutations
  }

  /**
   * Returns the snapshot of this state. Makes a new one unless the newest one already holds the
   * state.
   */
  async create(at: StateAt<State>): Promise<SnapshotInfo> {
    const newest = this.#newest
    if (newest?.sequence !== at.sequence) return await this.#write(at)
    // The file may have been deleted from outside.
    const isThere = (await this.#store.list()).some(({ sequence }) => sequence === at.sequence)
    return isThere ? newest : await this.#write(at)
  }

  /** Whether the newest snapshot holds another state. */
  isBehind(sequence: number): boolean {
    return sequence !== (this.#newest?.sequence ?? 0)
  }

  /**
   * Works like {@link create}, but reports a failure to `onError` instead of throwing it.
   *
   * @param prepare runs before, as a part of it.
   */
  async createAutomatically(at: StateAt<State>, prepare?: () => Promise<void>): Promise<void> {
    this.#lastTried = at.sequence
    try {
      await prepare?.()
      await this.create(at)
    } catch (error) {
      // The mutation is already durable, so its `apply` must not fail because of the snapshot.
      tell(this.#automatic.onError, error)
    }
  }

  /**
   * Makes sure that `keep` whole snapshots exist, or as many as there can be. One of them holds
   * this state.
   *
   * The existing snapshots are read back first. The store then does not count damaged ones, and
   * keeps an older snapshot in place of each. After the new one is made it would be too late: the
   * store may have removed a whole snapshot and kept a damaged one.
   */
  async assure(at: StateAt<State>): Promise<AssuredSnapshots> {
    const isThere = this.#newest?.sequence === at.sequence
    const damaged = await this.#findDamage(isThere ? this.#store.keep : this.#store.keep - 1)
    if (isThere && damaged.has(at.sequence)) this.#newest = undefined
    const newest = await this.create(at)
    const kept = await this.#store.list()
    const isWhole = ({ sequence }: SnapshotInfo): boolean =>
      sequence === newest.sequence || !damaged.has(sequence)
    return { oldest: kept.findLast(isWhole) ?? newest, kept, damaged: [...damaged.values()] }
  }

  /**
   * Reads snapshots back, newest first, until `count` of them were whole. Returns the damage of the
   * others by sequence number.
   */
  async #findDamage(count: number): Promise<Map<number, MiniStoreError>> {
    const damaged = new Map<number, MiniStoreError>()
    let whole = 0
    for (const info of await this.#store.list()) {
      if (whole >= count) break
      const damage = await damageOf(this.#store, info)
      if (damage === undefined) whole += 1
      else damaged.set(info.sequence, damage)
    }
    return damaged
  }

  async #write({ state, sequence }: StateAt<State>): Promise<SnapshotInfo> {
    // If the write fails, it is unknown which snapshot the name leads to, and whether the name
    // would survive a crash.
    this.#newest = undefined
    this.#lastTried = sequence
    await this.#refuseSuperseded(sequence)
    // The caller holds the manager's turn, so the state cannot change during the write, and needs
    // neither a copy nor serializing in one go. For a queue of a million messages the event loop is
    // held up for 0.19 s instead of 2 s; listing their ids takes most of that.
    this.#newest = await this.#store.create(state, sequence, { frozen: true, journal: this.#journal.id })
    return this.#newest
  }

  /** A store takes no snapshot older than its newest whole one. */
  async #refuseSuperseded(sequence: number): Promise<void> {
    for (const info of await this.#store.list()) {
      if (info.sequence <= sequence) return
      if ((await damageOf(this.#store, info)) !== undefined) continue
      const message =
        `Expected the newest snapshot to be at most ${sequence}, where this state is, got ${info.sequence}: another ` +
        'manager has taken over. Nothing is written. Close this one, and open again.'
      throw new MiniStoreError('ERR_MINISTORE_SNAPSHOT_AHEAD', message, { path: info.path, sequence: info.sequence })
    }
  }
}

/**
 * Resolves with the damage of a snapshot, or with undefined if the snapshot is whole or its store
 * cannot tell.
 */
export async function damageOf(
  store: Pick<Snapshots<never>, 'verify'>,
  { sequence }: SnapshotInfo,
): Promise<MiniStoreError | undefined> {
  try {
    await store.verify?.(sequence)
    return undefined
  } catch (error) {
    if (isDamage(error)) return error
    throw error
  }
}

/** Whether a manager may continue. It becomes unsound once memory and journal may differ. */
export class StateSoundness {
  #failure: MiniStoreError | undefined
  #isStateLost = false

  /**
   * @throws {MiniStoreError} `ERR_MINISTORE_POISONED` once the manager is unsound, or `…_MOVED` or
   *   `…_FENCED` if that was the reason.
   */
  assert(): void {
    if (this.#failure !== undefined) throw poisonedBy(this.#failure)
  }

  /**
   * @throws {MiniStoreError} `ERR_MINISTORE_POISONED` if the state in memory may be half changed.
   */
  assertState(): void {
    if (this.#isStateLost) this.assert()
  }

  /**
   * Calls the journal. Makes the manager unsound if the error leaves open what the journal holds, or
   * says that something else writes to it. A journal may also throw instead of rejecting.
   */
  async guard<T>(call: () => Promise<T>): Promise<T> {
    try {
      return await call()
    } catch (error) {
      // The condition is the manager's own: the journal is where the state is. If it is elsewhere,
      // something else has appended. A caller who repeats an `apply` after a conflict must not take
      // this for one.
      if (hasCode(error, 'ERR_MINISTORE_SEQUENCE_CONFLICT')) throw poisonedBy(this.poison(error))
      throw hasCode(error, ...codes) ? this.poison(error) : error
    }
  }

  /**
   * Makes the manager unsound and returns the error. The state in memory is still the acknowledged
   * one.
   */
  poison(error: MiniStoreError): MiniStoreError {
    this.#failure ??= error
    return error
  }

  /** Makes the manager unsound, its state in memory included. Returns the error. */
  loseState(error: MiniStoreError): MiniStoreError {
    this.#isStateLost = true
    return this.poison(error)
  }
}

const codes = [
  'ERR_MINISTORE_OUTCOME_UNKNOWN', 'ERR_MINISTORE_POISONED', 'ERR_MINISTORE_MOVED', 'ERR_MINISTORE_FENCED',
] as const

/** The result of `compact`. */
export interface CompactionReport {
  /** Sequence number of the newest snapshot, which holds the current state. */
  readonly sequence: number
  /**
   * Sequence number of the oldest mutation in the journal, or of the next one if the journal is
   * empty.
   */
  readonly firstSequence: number
  /** The existing snapshots, newest first. */
  readonly snapshots: readonly SnapshotInfo[]
  /**
   * The damage that was found, one error per damaged snapshot, newest first. A damaged snapshot
   * does not count: an older one is kept in its place, with all mutations since.
   */
  readonly damagedSnapshots: readonly MiniStoreError[]
}

/**
 * Makes a snapshot of the state and drops the records that the oldest kept whole snapshot covers.
 *
 * The order of the steps makes this safe. Before a record is dropped, the snapshot of the current
 * state is durable. Each snapshot that the store keeps was read back: it is whole, or an older
 * whole snapshot and the records after that one replace it.
 *
 * The first compaction drops what its only snapshot covers, because that is also the oldest one. A
 * second snapshot to fall back on exists from the second compaction on, if `keep` is at least 2.
 */
export async function compactState<State>(
  journal: Pick<Journal<unknown>, 'firstSequence' | 'rotate' | 'truncateBefore'>,
  snapshots: StateSnapshots<State>,
  at: StateAt<State>,
  soundness: StateSoundness,
): Promise<CompactionReport> {
  const { oldest, kept, damaged } = await snapshots.assure(at)
  // The journal drops whole segments only. Sealing the active one now lets the next compaction drop
  // everything that this snapshot covers.
  await soundness.guard(async () => await journal.rotate?.())
  await soundness.guard(() => journal.truncateBefore(oldest.sequence + 1))
  const { firstSequence } = journal
  return { sequence: at.sequence, firstSequence, snapshots: kept, damagedSnapshots: damaged }
}
