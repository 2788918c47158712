import { AsyncResource } from 'node:async_hooks'
import { performance } from 'node:perf_hooks'

import { isObject } from '../options.ts'

/** The source of time of a queue. Tests can replace it to control leases, delays and waits. */
export interface Clock {
  /**
   * Milliseconds since 1970, at most 8.6e15 before or after. This clock may be set forward or back.
   * It is used for delays and for dates that people read.
   */
  wallMs(): number
  /**
   * Milliseconds since an arbitrary moment, at most 8.6e15. This clock must never go back. It is
   * used for leases and waits.
   */
  monotonicMs(): number
  /**
   * Calls back once after `ms` milliseconds of {@link monotonicMs}. The queue passes at most
   * 2_147_483_647, the limit of the platform's timers. A call a little early or late does no harm.
   *
   * @param options.keepsAlive if true, the process must not end before the call.
   * @returns a function that cancels the timer.
   */
  setTimer(ms: number, callback: () => void, options: { readonly keepsAlive: boolean }): () => void
}

/** The clock of this machine. */
export const systemClock: Clock = {
  wallMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  setTimer: (ms, callback, { keepsAlive }) => {
    const timer = setTimeout(callback, Math.ceil(ms))
    // In a simulated browser, timers are numbers.
    if (!keepsAlive && isObject(timer)) timer.unref()
    return () => clearTimeout(timer)
  },
}

/** The longest delay of the platform's timers. A longer delay would ring at once. */
const longestMs = 2 ** 31 - 1

/** One timer for everything that a queue waits for. */
export class Alarm {
  readonly #clock: Clock
  readonly #ring: () => void
  #timer: { readonly ringsAt: number; readonly keepsAlive: boolean; readonly cancel: () => void } | undefined

  constructor(clock: Clock, ring: () => void) {
    this.#clock = clock
    // Bound here, because a timer runs in the asynchronous context of the call that set it.
    this.#ring = AsyncResource.bind(ring)
  }

  /**
   * Makes the alarm ring within `ms` milliseconds. It may ring early, for an earlier call of `set`
   * or because `ms` exceeds the longest timer. When it rings, the caller must set it again for
   * whatever it still waits for.
   */
  set(ms: number, { keepsAlive }: { readonly keepsAlive: boolean }): void {
    // Rounded up to whole milliseconds. Otherwise the alarm would ring again and again for the
    // remaining fraction.
    const wait = Math.min(Math.max(0, Math.ceil(ms)), longestMs)
    const ringsAt = this.#clock.monotonicMs() + wait
    // An earlier timer stays if `keepsAlive` is the same. Its ring is harmless. A new timer each
    // time that the first of many leases goes away would cost more.
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
