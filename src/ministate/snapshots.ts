import PQueue from 'p-queue'

import { addInContext, ignoreOutcome, tell } from '../async.ts'
import { hasCode, MiniStoreError, poisonedBy } from '../errors.ts'
import { isDamage } from '../minisnap/file.ts'
import type { Journal } from '../journal/journal.ts'
import type { SnapshotInfo, Snapshots } from '../journal/snapshots.ts'
import type { StateAt } from './recovery.ts'
import type { StateSettings } from './settings.ts'

/** `capture` makes snapshots beside later mutations possible. */
type Settings<State> = Pick<StateSettings<State, never>, 'everyMutations' | 'onError' | 'capture'>

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

/**
 * The snapshots of one state manager or view, and when the next one is due. Calls must not overlap,
 * except as {@link begin} says.
 */
export class StateSnapshots<State> {
  readonly #store: Snapshots<State>
  readonly #settings: Settings<State>
  /** The journal whose mutations made the states. */
  readonly #journal: Pick<Journal<unknown>, 'id'>
  /** The newest snapshot that is known to be whole. */
  #newest: SnapshotInfo | undefined
  /** Sequence number of the last snapshot that was made or attempted. */
  #lastTried: number
  /** Runs what {@link begin} begins, one at a time. So snapshots are written in the order of their states. */
  readonly #writes = new PQueue({ concurrency: 1 })

  constructor(
    store: Snapshots<State>,
    settings: Settings<State>,
    restored: SnapshotInfo | undefined,
    journal: Pick<Journal<unknown>, 'id'>,
  ) {
    this.#store = store
    this.#journal = journal
    this.#settings = settings
    this.#newest = restored
    this.#lastTried = restored?.sequence ?? 0
  }

  isDue(sequence: number): boolean {
    return sequence - this.#lastTried >= this.#settings.everyMutations
  }

  /**
   * Begins to write something made of the state as it is now. Must be called in a turn of the
   * manager. If the state can be captured, it resolves at once, and the manager goes on with its
   * turns. Otherwise it resolves when all is written, because the next turn may change the state.
   *
   * Resolves with the outcome as a promise in an object, which the turn does not wait for. `write`
   * may wait for a later turn if it runs beside the turns, so no turn may wait for `write` then.
   *
   * @throws whatever `capture` throws.
   */
  async begin<T>(
    now: StateAt<State>,
    write: (at: StateAt<State>, isBeside: boolean) => Promise<T>,
  ): Promise<{ readonly written: Promise<T> }> {
    const at = this.#captured(now)
    const isBeside = this.#isBeside
    const written = addInContext(this.#writes, () => write(at, isBeside))
    // The caller of the manager gets the error. Until the turn ends, nothing listens for it.
    if (isBeside) ignoreOutcome(written)
    else await written
    return { written }
  }

  /**
   * Begins an automatic snapshot if one is due, as {@link begin} does. If another one is being
   * written beside the mutations, a later mutation finds it due.
   */
  async makeIfDue(now: StateAt<State>): Promise<void> {
    if (!this.isDue(now.sequence) || (this.#isBeside && this.#writes.pending > 0)) return
    const made = this.createAutomatically(now.sequence, () => this.#captured(now).state)
    // It never rejects. Snapshots begun later wait for it.
    const written = this.#writes.add(() => made)
    if (!this.#isBeside) await written
  }

  /** Resolves when everything that was begun has ended. */
  onIdle(): Promise<void> {
    return this.#writes.onIdle()
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
   * @param state returns the state at `sequence`. It is called before this call returns, and its
   *   failure is reported too.
   */
  async createAutomatically(sequence: number, state: () => State | Promise<State>): Promise<void> {
    this.#lastTried = sequence
    try {
      await this.create({ state: await state(), sequence })
    } catch (error) {
      // The mutation is already durable, so its `apply` must not fail because of the snapshot.
      tell(this.#settings.onError, error)
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

  get #isBeside(): boolean {
    return this.#settings.capture !== undefined
  }

  /** The state as it is now. If snapshots are written beside mutations, these do not change it. */
  #captured({ state, sequence }: StateAt<State>): StateAt<State> {
    const { capture } = this.#settings
    return { state: capture === undefined ? state : capture(state), sequence }
  }

  async #write({ state, sequence }: StateAt<State>): Promise<SnapshotInfo> {
    // If the write fails, it is unknown which snapshot the name leads to, and whether the name
    // would survive a crash.
    this.#newest = undefined
    this.#lastTried = sequence
    await this.#refuseSuperseded(sequence)
    // The caller holds the manager's turn or has captured the state. So the state does not change
    // during the write, and needs neither a copy nor serializing in one go.
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
 * The order of the steps makes this safe. Before a record is dropped, the snapshot of this state is
 * durable. Each snapshot that the store keeps was read back: it is whole, or an older whole snapshot
 * and the records after that one replace it. This holds no matter how many mutations follow between
 * the steps, because they only add records.
 *
 * The journal drops whole segments only, so its active segment must have been sealed at this state.
 * Otherwise the next compaction could not drop everything that this snapshot covers.
 *
 * The first compaction drops what its only snapshot covers, because that is also the oldest one. A
 * second snapshot to fall back on exists from the second compaction on, if `keep` is at least 2.
 *
 * @param inTurn runs a step while no mutation is applied.
 */
export async function compactState<State>(
  journal: Pick<Journal<unknown>, 'firstSequence' | 'truncateBefore'>,
  snapshots: StateSnapshots<State>,
  at: StateAt<State>,
  inTurn: InTurn,
): Promise<CompactionReport> {
  const { oldest, kept, damaged } = await snapshots.assure(at)
  return await inTurn(async () => {
    await journal.truncateBefore(oldest.sequence + 1)
    const { firstSequence } = journal
    return { sequence: at.sequence, firstSequence, snapshots: kept, damagedSnapshots: damaged }
  })
}

/** Runs a task that calls the journal while no mutation is applied. */
export type InTurn = <T>(task: () => Promise<T>) => Promise<T>
