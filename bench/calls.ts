import { performance } from 'node:perf_hooks'
import { setImmediate as turnOfTheLoop } from 'node:timers/promises'

import type { Slice } from './comparison.ts'
import { waitsInTurn } from './statistics.ts'

/**
 * An operation to measure by repetition. Returns a promise to await, or undefined if the operation
 * is complete on return.
 */
export type Call = () => Promise<unknown> | undefined

/**
 * Repeats a call for at least `milliseconds`, as `callers` concurrent callers. Each caller waits
 * for its call to complete before it makes the next one.
 *
 * If the call blocks, callers can only take turns: the calls run one after another, and each
 * caller's latency is computed from its place in the queue. The event loop turns once after each
 * call, as it must in a program that does other work. That turn is not counted.
 */
export async function measureCalls(
  call: Call,
  options: { readonly callers: number; readonly milliseconds: number; readonly isBlocking: boolean },
): Promise<Slice> {
  return options.isBlocking ? measureBlocking(call, options) : measureWaiting(call, options)
}

/**
 * Makes a slice from calls that ran one after another, as if `callers` callers had taken turns.
 * Durations are nanoseconds.
 */
export function sliceOfTurns(durations: readonly number[], callers: number): Slice {
  const time = durations.reduce((sum, duration) => sum + duration, 0)
  const latencies = waitsInTurn(durations, Math.min(callers, durations.length))
  return { units: durations.length, time, latencies }
}

async function measureBlocking(
  call: Call,
  { callers, milliseconds }: { readonly callers: number; readonly milliseconds: number },
): Promise<Slice> {
  const durations: number[] = []
  const end = performance.now() + milliseconds
  do {
    const begun = performance.now()
    const done = call()
    // Some blocking calls return a promise anyway.
    if (done !== undefined) await done
    durations.push((performance.now() - begun) * 1e6)
    await turnOfTheLoop()
  } while (performance.now() < end)
  return sliceOfTurns(durations, callers)
}

async function measureWaiting(
  call: Call,
  { callers, milliseconds }: { readonly callers: number; readonly milliseconds: number },
): Promise<Slice> {
  const latencies: number[] = []
  const begun = performance.now()
  const end = begun + milliseconds
  const caller = async (): Promise<void> => {
    do {
      const called = performance.now()
      await call()
      latencies.push((performance.now() - called) * 1e6)
    } while (performance.now() < end)
  }
  await Promise.all(Array.from({ length: callers }, caller))
  return { units: latencies.length, time: (performance.now() - begun) * 1e6, latencies }
}
