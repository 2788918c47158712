import { AsyncResource } from 'node:async_hooks'
import { performance } from 'node:perf_hooks'

import { isObject } from '../options.ts'

/** What a queue knows of time; replace it to test what waits for it. */
export interface Clock {
  /** Milliseconds since 1970, on a clock that somebody may set: for delays and for what people read. */
  wallMs(): number
  /** Milliseconds since some moment, on a clock that only goes forward: for leases and waiting. */
  monotonicMs(): number
  /**
   * Calls back once after so many milliseconds of {@link monotonicMs}, 2_147_483_647 at most; a little early
   * or late does no harm. Gives a function that cancels it. With `keepsAlive` the process must not end
   * before.
   */
  setTimer(ms: number, callback: () => void, options: { readonly keepsAlive: boolean }): () => void
}

/** The clock of this machine. */
export const systemClock: Clock = {
  wallMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  setTimer: (ms, callback, { keepsAlive }) => {
    const timer = setTimeout(callback, Math.ceil(ms))
    // Those of a simulated browser are numbers.
    if (!keepsAlive && isObject(timer)) timer.unref()
    return () => clearTimeout(timer)
  },
}

/** The longest time that a timer of the platform can be set to; a longer one would ring at once. */
const longestMs = 2 ** 31 - 1

/** One timer for everything that a queue waits for. */
export class Alarm {
  readonly #clock: Clock
  readonly #ring: () => void
  #timer: { readonly ringsAt: number; readonly keepsAlive: boolean; readonly cancel: () => void } | undefined

  constructor(clock: Clock, ring: () => void) {
    this.#clock = clock
    // A timer would ring in the context of whichever call has set it.
    this.#ring = AsyncResource.bind(ring)
  }

  /**
   * Rings within `ms`. It may ring early, for what was waited for before: then it is to be set again. Whoever
   * waits longer than a timer can is rung for in between.
   */
  set(ms: number, { keepsAlive }: { readonly keepsAlive: boolean }): void {
    // Whole milliseconds, or what is left after rounding would be waited for again and again.
    const wait = Math.min(Math.max(0, Math.ceil(ms)), longestMs)
    const ringsAt = this.#clock.monotonicMs() + wait
    // Setting it anew each time that the first lease of many ends earlier than the next would only cost.
    const timer = this.#timer
    if (timer !== undefined && timer.ringsAt <= ringsAt && timer.keepsAlive === keepsAlive) return
    this.clear()
    const ring = (): void => {
      this.#timer = undefined
      this.#ring()
    }
    this.#timer = { ringsAt, keepsAlive, cancel: this.#clock.setTimer(wait, ring, { keepsAlive }) }
  }

  clear(): void {
    this.#timer?.cancel()
    this.#timer = undefined
  }
}
