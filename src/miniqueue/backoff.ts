import { ignoreOutcome, isThenable } from '../async.ts'
import { fields, finiteNumber, integer, isObject, maxMs, shown } from '../options.ts'

/** How long a message waits after a failed attempt: longer each time, up to a limit. */
export interface Backoff {
  /** Milliseconds after the first attempt. @default 1000 */
  readonly initialMs?: number | undefined
  /** How many times longer after each further one. @default 2; minimum 1 */
  readonly factor?: number | undefined
  /** Milliseconds at most. @default 300_000 (5 minutes) */
  readonly maxMs?: number | undefined
  /**
   * Share of the time by which it is shortened at random, from 0 to 1: 0.2 gives 80 to 100 % of it. So
   * messages that failed together do not all come back together.
   *
   * @default 0.2
   */
  readonly jitter?: number | undefined
}

/** Milliseconds that a message waits after its `attempt`, which is 1 for the first. */
export type BackoffFunction = (attempt: number) => number

/** @throws {TypeError | RangeError} for what is neither a backoff nor a function. */
export function backoffFunction(backoff: unknown, random: () => number): BackoffFunction {
  if (typeof backoff === 'function') return checked(backoff as BackoffFunction)
  if (backoff !== undefined && !isObject(backoff)) {
    throw new TypeError(`Expected \`backoff\` to be an object or a function, got ${shown(backoff)}`)
  }
  const given = fields(backoff, ['initialMs', 'factor', 'maxMs', 'jitter'])
  const initial = integer('initialMs', given['initialMs'], { otherwise: 1000, least: 0, most: maxMs })
  const factor = finiteNumber('factor', given['factor'], { otherwise: 2, least: 1 })
  const most = integer('maxMs', given['maxMs'], { otherwise: 300_000, least: 0, most: maxMs })
  const jitter = finiteNumber('jitter', given['jitter'], { otherwise: 0.2, least: 0, most: 1 })
  return (attempt) => {
    // 0 times a power that is too large for a number would be none.
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
    throw refused('backoff', 'milliseconds, 0 or more', ms)
  }
}

function refused(name: string, expected: string, given: unknown): TypeError {
  if (isThenable(given)) ignoreOutcome(given)
  return new TypeError(`Expected \`${name}\` to give ${expected}, got ${shown(given)}`)
}
