import { tell } from '../async.ts'
import { isMiniStoreError, MiniStoreError } from '../errors.ts'
import type { SnapshotInfo, SnapStore } from '../minisnap/index.ts'
import type { Journal } from '../journal/journal.ts'
import type { StateAt } from './recovery.ts'
import type { StateSettings } from './settings.ts'

type Automatic = Pick<StateSettings<never, never>, 'everyMutations' | 'onError'>

/** Snapshots that a compaction may rely on. */
export interface AssuredSnapshots {
  /** The oldest that is whole. */
  readonly oldest: SnapshotInfo
  /** All there are, newest first, damaged ones too. */
  readonly kept: readonly SnapshotInfo[]
  /** What was wrong with those that are damaged, newest first. */
  readonly damaged: readonly MiniStoreError[]
}

/** The snapshots of one state manager, and when the next one is due. Calls must not overlap. */
export class StateSnapshots<State> {
  readonly #store: SnapStore<State>
  readonly #automatic: Automatic
  /** The newest one that is known to be whole. */
  #newest: SnapshotInfo | undefined
  /** Sequence number of the last one that was made, or tried. */
  #lastTried: number

  constructor(store: SnapStore<State>, automatic: Automatic, restored: SnapshotInfo | undefined) {
    this.#store = store
    this.#automatic = automatic
    this.#newest = restored
    this.#lastTried = restored?.sequence ?? 0
  }

  isDue(sequence: number): boolean {
    return sequence - this.#lastTried >= this.#automatic.everyMutations
  }

  /** The snapshot of this state: a new one, unless the newest is of it already. */
  async create(at: StateAt<State>): Promise<SnapshotInfo> {
    const newest = this.#newest
    if (newest?.sequence !== at.sequence) return await this.#write(at)
    // Somebody may have deleted it.
    const isThere = (await this.#store.list()).some(({ sequence }) => sequence === at.sequence)
    return isThere ? newest : await this.#write(at)
  }

  /** As {@link create}, but a failure is only told. */
  async createAutomatically(at: StateAt<State>): Promise<void> {
    try {
      await this.create(at)
    } catch (error) {
      // The mutation is durable: nothing may say otherwise.
      tell(this.#automatic.onError, error)
    }
  }

  /**
   * Makes sure that as many snapshots are whole as are to be kept, if there are so many, the one of this
   * state among them. The others are read back first: the store then counts none that is damaged, and removes
   * none for its sake.
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

  /** Reads back from the newest on until so many were whole; gives what was wrong with the others. */
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
    // Should it fail, it is not known which one the name leads to, nor whether that lasts.
    this.#newest = undefined
    this.#lastTried = sequence
    // Whoever calls has the manager's turn, so nothing changes the state meanwhile.
    this.#newest = await this.#store.create(state, sequence, { frozen: true })
    return this.#newest
  }
}

/** What is wrong with a snapshot; undefined when it is whole. */
export async function damageOf(
  store: Pick<SnapStore<never>, 'verify'>,
  { sequence }: Pick<SnapshotInfo, 'sequence'>,
): Promise<MiniStoreError | undefined> {
  try {
    await store.verify(sequence)
    return undefined
  } catch (error) {
    if (isDamage(error)) return error
    throw error
  }
}

/** Whether snapshots were there and were not whole. */
export function isDamage(error: unknown): error is MiniStoreError {
  return isMiniStoreError(error, 'ERR_MINISTORE_SNAPSHOT_DAMAGED')
}

/** Whether a manager may go on: until it cannot know any more that memory and journal say the same. */
export class StateSoundness {
  #failure: MiniStoreError | undefined
  #isStateLost = false

  /** @throws {MiniStoreError} `ERR_MINISTORE_POISONED` once it is lost, or `…_MOVED`, where that was the reason. */
  assert(): void {
    if (this.#failure === undefined) return
    const message = `Only close() works: ${this.#failure.message}`
    const { sequence, path } = this.#failure
    const code = this.#failure.code === 'ERR_MINISTORE_MOVED' ? this.#failure.code : 'ERR_MINISTORE_POISONED'
    throw new MiniStoreError(code, message, { sequence, path, cause: this.#failure })
  }

  /** @throws {MiniStoreError} `ERR_MINISTORE_POISONED` when the state in memory may be half changed. */
  assertState(): void {
    if (this.#isStateLost) this.assert()
  }

  /** Waits for a call of the journal, and ends it when that leaves unknown what the journal holds. */
  async guard<T>(call: Promise<T>): Promise<T> {
    try {
      return await call
    } catch (error) {
      throw isMiniStoreError(error, ...codes) ? this.poison(error) : error
    }
  }

  /** Ends it; the state in memory stays what was acknowledged. Gives the error back. */
  poison(error: MiniStoreError): MiniStoreError {
    this.#failure ??= error
    return error
  }

  /** Ends it, the state in memory too. */
  loseState(error: MiniStoreError): MiniStoreError {
    this.#isStateLost = true
    return this.poison(error)
  }
}

const codes = ['ERR_MINISTORE_OUTCOME_UNKNOWN', 'ERR_MINISTORE_POISONED', 'ERR_MINISTORE_MOVED'] as const

/** What `compact` did. */
export interface CompactionReport {
  /** Sequence number of the newest snapshot, which is of the state now. */
  readonly sequence: number
  /**
   * Sequence number of the oldest mutation that the journal still has, or of the next one when it has none.
   */
  readonly firstSequence: number
  /** The snapshots that there are, newest first. */
  readonly snapshots: readonly SnapshotInfo[]
  /**
   * What was wrong with snapshots, newest first. Such a one does not count: an older one is kept in its
   * place, with all mutations since.
   */
  readonly damagedSnapshots: readonly MiniStoreError[]
}

/**
 * Makes a snapshot of the state and drops the records that the oldest kept one covers.
 *
 * The order makes it sound: a record goes only when the snapshot of the state now is durable, and when every
 * snapshot that the store keeps was read back whole or has the records after an older one to make up for it.
 */
export async function compactState<State>(
  journal: Pick<Journal<unknown>, 'firstSequence' | 'rotate' | 'truncateBefore'>,
  snapshots: StateSnapshots<State>,
  at: StateAt<State>,
  soundness: StateSoundness,
): Promise<CompactionReport> {
  const { oldest, kept, damaged } = await snapshots.assure(at)
  // Segments are dropped whole: this way the next compaction can drop all that this snapshot covers.
  await soundness.guard(journal.rotate())
  await soundness.guard(journal.truncateBefore(oldest.sequence + 1))
  return {
    sequence: at.sequence,
    firstSequence: journal.firstSequence,
    snapshots: kept,
    damagedSnapshots: damaged,
  }
}
