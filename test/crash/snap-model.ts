import { MiniStoreError, SnapStore } from '../../src/minisnap/index.ts'
import type { SimulatedFileSystem } from '../../src/testing/index.ts'
import type { Workload } from './harness.ts'

/** Where the snapshots of the crash tests lie: two directories deep, so that making them is crashed too. */
export const snapDirectory = '/data/deep'

/** A snapshot as a promise knows it. */
export interface Known {
  readonly sequence: number
  readonly json: string
}

/** What a crash may leave of a directory of snapshots. */
export interface ExpectedSnaps {
  /** The JSON of the state of every sequence number that was acknowledged; the last one where it was replaced. */
  readonly acknowledged: ReadonlyMap<number, string>
  /** What may or may not be there: calls under way, and those whose outcome was unknown. */
  readonly possible: readonly Known[]
  /** How many of the newest were there when the last call ended, and must be until the next one has its own in place. */
  readonly kept: number
  /** How many the call under way keeps. */
  readonly keep: number
  /** How many there may be. */
  readonly most: number
}

/** A directory of snapshots as its user knows it. Workloads write through it. */
export class SnapModel {
  readonly #acknowledged = new Map<number, string>()
  #possible: Known[] = []
  #keep = 1
  #kept = 0
  /** How many there may be when no call is under way. */
  #most = 0
  #underway = 0

  /** The expectation now, as {@link Workload.expected} wants it. */
  readonly expected = (): ExpectedSnaps => ({
    acknowledged: new Map(this.#acknowledged),
    possible: [...this.#possible],
    kept: this.#kept,
    keep: this.#keep,
    most: this.#most + (this.#underway > 0 ? 1 : 0),
  })

  /** The newest sequence number that was ever tried. */
  get newest(): number {
    return Math.max(0, ...this.#acknowledged.keys(), ...this.#possible.map(({ sequence }) => sequence))
  }

  open(files: SimulatedFileSystem, keep: number): SnapStore {
    this.#keep = keep
    return new SnapStore(snapDirectory, { keep, fileSystem: files })
  }

  /** Calls may overlap. */
  async create(store: SnapStore, state: unknown, sequence: number): Promise<void> {
    const known = { sequence, json: JSON.stringify(state) }
    this.#possible.push(known)
    this.#underway += 1
    try {
      await store.create(state, sequence)
      this.#acknowledge(known)
      this.#most = store.keep
    } catch (error) {
      // What was not removed stays, and what was may come back, until a call has worked.
      this.#most = Infinity
      if (!(error instanceof MiniStoreError)) throw error
      // The message is a promise as well.
      if (error.message.includes('which is durable')) this.#acknowledge(known)
      else if (error.code !== 'ERR_MINISTORE_OUTCOME_UNKNOWN') this.#forget(known)
      throw error
    } finally {
      this.#underway -= 1
    }
  }

  /** What was given is on stable storage from then on. */
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
    // One of the same number that was called for later may still replace it.
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

/** A workload of one model. */
export function snapWorkload(
  name: string,
  run: (model: SnapModel, files: SimulatedFileSystem) => Promise<void>,
  model: SnapModel = new SnapModel(),
): Workload<ExpectedSnaps> {
  return { name, expected: model.expected, run: (files) => run(model, files) }
}
