import { performance } from 'node:perf_hooks'
import { setImmediate as turnOfTheLoop } from 'node:timers/promises'

import type { Slice } from './comparison.ts'
import { waitsInTurn } from './statistics.ts'

/** Something to be done over and over: what to wait for, or nothing when it is done on return. */
export type Call = () => Promise<unknown> | undefined

/**
 * Does a call over and over for some milliseconds, as `callers` who each wait for theirs before the next one.
 *
 * One that blocks leaves its callers no choice but to take turns; the event loop may turn after each, as it
 * must in a program that does anything else, and that is not counted.
 */
export async function measureCalls(
  call: Call,
  options: { readonly callers: number; readonly milliseconds: number; readonly isBlocking: boolean },
): Promise<Slice> {
  return options.isBlocking ? measureBlocking(call, options) : measureWaiting(call, options)
}

/** Turns that were taken one after another, as a slice of so many callers. */
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
    // Some block and give a promise all the same.
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
