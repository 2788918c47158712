import { AsyncResource } from 'node:async_hooks'
import { performance } from 'node:perf_hooks'

import { ignoreOutcome, isThenable } from '../async.ts'
import { fields, finiteNumber, integer, isObject, maxMs, shown } from '../options.ts'

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

/** How long a message waits after a failed attempt: longer each time, up to a limit. */
export interface Backoff {
  /** Milliseconds to wait after the first attempt. Minimum 0, maximum 10^13. @default 1000 */
  readonly initialMs?: number | undefined
  /**
   * Factor by which the wait grows with each further attempt. Minimum 1; fractions are allowed.
   *
   * @default 2
   */
  readonly factor?: number | undefined
  /** Longest wait in milliseconds. Minimum 0, maximum 10^13. @default 300_000 (5 minutes) */
  readonly maxMs?: number | undefined
  /**
   * Maximum share of the wait, from 0 to 1, by which it is shortened at random. For example, 0.2
   * gives 80 to 100 % of the wait. Jitter spreads out the retries of messages that failed together.
   *
   * @default 0.2
   */
  readonly jitter?: number | undefined
}

/**
 * Returns the milliseconds that a message waits after its `attempt`, which is 1 for the first. The
 * result must be 0 or more; it is rounded, and limited to 10^13. Or it returns `'dead'`, and the
 * message becomes a dead letter. With any other result, the nack rejects with a `TypeError` and the
 * lease goes on.
 */
export type BackoffFunction = (attempt: number) => number | 'dead'

/**
 * Turns the `backoff` option into a function.
 *
 * @throws {TypeError | RangeError} if `backoff` is neither a function nor valid options.
 */
export function backoffFunction(backoff: unknown, random: () => number): BackoffFunction {
  if (typeof backoff === 'function') return checked(backoff as BackoffFunction)
  if (backoff !== undefined && !isObject(backoff)) {
    throw new TypeError(`Expected \`backoff\` to be an object or a function, got ${shown(backoff)}`)
  }
  const given = fields(backoff, ['initialMs', 'factor', 'maxMs', 'jitter'])
  const initial = integer('initialMs', given['initialMs'], { default: 1000, min: 0, max: maxMs })
  const factor = finiteNumber('factor', given['factor'], { default: 2, min: 1 })
  const most = integer('maxMs', given['maxMs'], { default: 300_000, min: 0, max: maxMs })
  const jitter = finiteNumber('jitter', given['jitter'], { default: 0.2, min: 0, max: 1 })
  return (attempt) => {
    // The power may overflow to Infinity, and 0 times Infinity is NaN.
    const full = initial === 0 ? 0 : Math.min(most, initial * factor ** (attempt - 1))
    return Math.round(full * (1 - jitter * checkedShare(random())))
  }
}

function checkedShare(share: unknown): number {
  if (typeof share === 'number' && share >= 0 && share <= 1) return share
  throw refused('random', 'a number from 0 up to 1', share)
}

function checked(backoff: BackoffFunction): BackoffFunction {
  return (attempt) => {
    const ms: unknown = backoff(attempt)
    if (typeof ms === 'number' && ms >= 0) return Math.min(Math.round(ms), maxMs)
    if (ms === 'dead') return ms
    throw refused('backoff', 'milliseconds, 0 or more, or "dead"', ms)
  }
}

function refused(name: string, expected: string, given: unknown): TypeError {
  if (isThenable(given)) ignoreOutcome(given)
  return new TypeError(`Expected \`${name}\` to give ${expected}, got ${shown(given)}`)
}

/** Limits how many things may begin in a span of time. */
export class RateLimit {
  readonly #count: number
  readonly #windowMs: number
  /** When each of the latest began, oldest first, on the monotonic clock. */
  readonly #begun: number[] = []

  /** @param perSecond how many may begin in any second; 0.5 lets one begin in two seconds. */
  constructor(perSecond: number) {
    this.#count = Math.max(1, Math.floor(perSecond))
    this.#windowMs = (this.#count * 1000) / perSecond
  }

  /** How many may begin now. */
  free(now: number): number {
    while ((this.#begun[0] ?? Number.POSITIVE_INFINITY) <= now - this.#windowMs) this.#begun.shift()
    return this.#count - this.#begun.length
  }

  /** When the next may begin, once {@link free} has returned 0. */
  get nextAt(): number {
    return (this.#begun[0] ?? 0) + this.#windowMs
  }

  note(count: number, now: number): void {
    for (let added = 0; added < count; added++) this.#begun.push(now)
  }
}
