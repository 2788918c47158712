import { deepStrictEqual } from 'node:assert/strict'

import { hasCode, type MiniStoreErrorCode } from '../errors.ts'
import { fields, integer } from '../options.ts'

/** One test of a contract. Give it to any test runner: `for (const { name, run } of …) test(name, run)`. */
export interface ContractTest {
  /** What the test expects, as a sentence. */
  readonly name: string
  /** Runs the test on something new. Rejects if a promise is broken. Tests may run side by side. */
  readonly run: () => Promise<void>
}

/** Options of a contract. */
export interface ContractOptions {
  /**
   * How long a test waits for a call to settle before it fails, in milliseconds.
   *
   * @default 10_000; minimum 1
   */
  readonly timeoutMs?: number | undefined
}

/** Waits for calls that a broken implementation might never settle. */
export class Patience {
  readonly #timeoutMs: number

  constructor(options: unknown) {
    const { timeoutMs } = fields(options, ['timeoutMs'])
    this.#timeoutMs = integer('timeoutMs', timeoutMs, { default: 10_000, max: 2 ** 31 - 1 })
  }

  /** Settles as the call does. Rejects if the call does not settle in time. */
  async until<T>(what: string, call: Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      const message = `Expected ${what} to settle within ${this.#timeoutMs} ms`
      timer = setTimeout(() => reject(new Error(message)), this.#timeoutMs)
    })
    try {
      return await Promise.race([call, late])
    } finally {
      clearTimeout(timer)
    }
  }

  /** Starts a task that is awaited later. Settles as {@link until} does. */
  started<T>(what: string, task: () => Promise<T>): Promise<T> {
    const call = this.until(what, task())
    // The test may fail before it awaits the call.
    call.catch(() => {})
    return call
  }

  /** Resolves once the call has rejected with one of these codes. */
  async refused(what: string, call: Promise<unknown>, ...codes: readonly MiniStoreErrorCode[]): Promise<unknown> {
    const error = await this.rejected(what, call)
    const expected = `Expected ${what} to reject with ${codes.join(' or ')}`
    if (!hasCode(error, ...codes)) throw new Error(`${expected}, got ${String(error)}`, { cause: error })
    return error
  }

  /** Resolves with the reason of the call once it has rejected with anything. */
  async rejected(what: string, call: Promise<unknown>): Promise<unknown> {
    const outcome = await this.until(what, call.then(() => undefined, (reason: unknown) => ({ reason })))
    if (outcome === undefined) throw new Error(`Expected ${what} to reject, and it resolved`)
    return outcome.reason
  }
}

/** @throws if the values differ in any part. */
export function same(what: string, got: unknown, expected: unknown): void {
  try {
    deepStrictEqual(got, expected)
  } catch (error) {
    throw new Error(`Expected another value for ${what}. ${(error as Error).message}`, { cause: error })
  }
}

/** @throws unless the claim holds. */
export function holds(claim: boolean, otherwise: string): asserts claim {
  if (!claim) throw new Error(otherwise)
}
