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
