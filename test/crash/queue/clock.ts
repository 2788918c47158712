import { createRandom } from '../../../src/testing/random.ts'

/** The time at which every test's wall clock starts. */
export const beginning: number = Date.UTC(2030, 0, 1)

interface Timer {
  readonly at: number
  readonly callback: () => void
}

/** A queue's clock that moves only on request. */
export class SteppedClock {
  #wall: number
  #monotonic: number
  readonly #timers = new Set<Timer>()

  /**
   * Every process counts from a moment of its own, so the monotonic clock starts at an arbitrary
   * value.
   */
  constructor(wallMs: number = beginning) {
    this.#wall = wallMs
    this.#monotonic = createRandom(wallMs % 1000).below(1_000_000)
  }

  readonly wallMs = (): number => this.#wall

  readonly monotonicMs = (): number => this.#monotonic

  readonly setTimer = (ms: number, callback: () => void): (() => void) => {
    const timer = { at: this.#monotonic + Math.max(0, ms), callback }
    this.#timers.add(timer)
    return () => void this.#timers.delete(timer)
  }

  /** How many timers are waiting. */
  get timers(): number {
    return this.#timers.size
  }

  /** Lets time pass on both clocks. Timers fire in order, each at its own time. */
  advance(ms: number): void {
    const end = this.#monotonic + ms
    for (;;) {
      const [next] = [...this.#timers].toSorted((left, right) => left.at - right.at)
      if (next === undefined || next.at > end) break
      this.#timers.delete(next)
      this.#pass(Math.max(0, next.at - this.#monotonic))
      next.callback()
    }
    this.#pass(end - this.#monotonic)
  }

  /** Moves the wall clock forward by `ms`, or back if `ms` is negative. */
  jump(ms: number): void {
    this.#wall += ms
  }

  #pass(ms: number): void {
    this.#wall += ms
    this.#monotonic += ms
  }
}
