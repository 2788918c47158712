import { isMiniStoreError, type MiniStoreError } from '../errors.ts'
import type { SnapshotInfo, SnapStore } from '../minisnap/index.ts'
import { tell } from '../async.ts'
import type { StateAt } from './fold.ts'
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
