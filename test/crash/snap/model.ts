import { MiniStoreError, SnapStore } from '../../../src/minisnap/index.ts'
import type { SimulatedFileSystem } from '../../../src/testing/index.ts'
import type { Workload } from '../harness.ts'

/**
 * Directory of the snapshots in the crash tests: two levels deep, so that creating the directories
 * is crashed too.
 */
export const snapDirectory = '/data/deep'

/**
 * A snapshot as the model and the oracle know it: its sequence number and the JSON of its state.
 */
export interface Known {
  readonly sequence: number
  readonly json: string
}

/** What a crash may leave of a directory of snapshots. */
export interface ExpectedSnaps {
  /**
   * The JSON of each acknowledged state, by sequence number. If a snapshot was replaced, this is
   * the last one.
   */
  readonly acknowledged: ReadonlyMap<number, string>
  /**
   * Snapshots that may or may not be there: those of calls in progress, and those with an unknown
   * outcome.
   */
  readonly possible: readonly Known[]
  /**
   * How many of the newest snapshots were there when the last call ended. They must stay until the
   * next call's own snapshot is in place.
   */
  readonly kept: number
  /** How many snapshots the current call keeps. */
  readonly keep: number
  /** The most snapshots that may be there. */
  readonly most: number
}

/** A directory of snapshots as its user knows it. Workloads write through it. */
export class SnapModel {
  readonly #acknowledged = new Map<number, string>()
  #possible: Known[] = []
  #keep = 1
  #kept = 0
  /** The most snapshots that may be there while no call is in progress. */
  #most = 0
  #underway = 0

  /** The current expectation, in the form of {@link Workload.expected}. */
  readonly expected = (): ExpectedSnaps => ({
    acknowledged: new Map(this.#acknowledged),
    possible: [...this.#possible],
    kept: this.#kept,
    keep: this.#keep,
    most: this.#most + (this.#underway > 0 ? 1 : 0),
  })

  /** The newest sequence number ever attempted. */
  get newest(): number {
    return Math.max(0, ...this.#acknowledged.keys(), ...this.#possible.map(({ sequence }) => sequence))
  }

  open(files: SimulatedFileSystem, keep: number): SnapStore {
    this.#keep = keep
    return new SnapStore(snapDirectory, { keep, fileSystem: files })
  }

  /** Creates a snapshot. Calls may overlap. */
  async create(store: SnapStore, state: unknown, sequence: number): Promise<void> {
    const known = { sequence, json: JSON.stringify(state) }
    this.#possible.push(known)
    this.#underway += 1
    try {
      await store.create(state, sequence)
      this.#acknowledge(known)
      this.#most = store.keep
    } catch (error) {
      // Until a call has succeeded, snapshots that were not removed stay, and removed ones may come
      // back.
      this.#most = Infinity
      if (!(error instanceof MiniStoreError)) throw error
      // The error's message makes a promise too.
      if (error.message.includes('which is durable')) this.#acknowledge(known)
      else if (error.code !== 'ERR_MINISTORE_OUTCOME_UNKNOWN') this.#forget(known)
      throw error
    } finally {
      this.#underway -= 1
    }
  }

  /** Restores the newest snapshot. What `restore` gave is on stable storage from then on. */
  async restore(store: SnapStore): Promise<void> {
    const found = await store.restore()
    const newest = Math.max(0, ...this.#acknowledged.keys())
    if (found === undefined) {
      if (newest > 0) throw new Error(`restore() gave nothing, but ${newest} was acknowledged`)
      return
    }
    const known = { sequence: found.sequence, json: JSON.stringify(found.state) }
    const isKnown = allowed(this.expected(), known.sequence).includes(known.json)
    if (known.sequence < newest || !isKnown) throw new Error(`restore() gave ${JSON.stringify(known)} of ${newest}`)
    if (this.#acknowledged.get(known.sequence) !== known.json) this.#acknowledge(known)
  }

  #acknowledge(known: Known): void {
    const isAnother = !this.#acknowledged.has(known.sequence)
    this.#kept = Math.min(this.#kept + (isAnother ? 1 : 0), this.#keep)
    this.#acknowledged.set(known.sequence, known.json)
    // A snapshot with the same number from a later call may still replace this one.
    const place = this.#possible.findLastIndex(({ sequence, json }) => sequence === known.sequence && json === known.json)
    this.#possible = this.#possible.filter(({ sequence }, index) => sequence !== known.sequence || index > place)
  }

  #forget(known: Known): void {
    this.#possible = this.#possible.filter((other) => other !== known)
  }
}

/** The states that a sequence number may have. */
export function allowed({ acknowledged, possible }: ExpectedSnaps, sequence: number): string[] {
  const json = acknowledged.get(sequence)
  const others = possible.filter((other) => other.sequence === sequence).map((other) => other.json)
  return json === undefined ? others : [json, ...others]
}

/** A workload on one model. */
export function snapWorkload(
  name: string,
  run: (model: SnapModel, files: SimulatedFileSystem) => Promise<void>,
  model: SnapModel = new SnapModel(),
): Workload<ExpectedSnaps> {
  return { name, expected: model.expected, run: (files) => run(model, files) }
}
