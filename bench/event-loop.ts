import { monitorEventLoopDelay, performance } from 'node:perf_hooks'
import { setTimeout as timer } from 'node:timers/promises'

import type { Figures } from './results.ts'
import { median } from './statistics.ts'

/**
 * How late a timer of 1 ms fired, in nanoseconds, and the share of the time, from 0 to 1, in which
 * the event loop was busy.
 */
export interface LoopWatch {
  readonly p50: number
  readonly p99: number
  readonly max: number
  readonly busy: number
}

/** Watches the event loop while an action runs. */
export async function watchEventLoop<Result>(
  action: () => Promise<Result>,
): Promise<{ readonly result: Result; readonly watch: LoopWatch }> {
  const delay = monitorEventLoopDelay({ resolution: 1 })
  delay.enable()
  // The monitor times each timer from the previous one, so a timer must fire before the action.
  await timer(1)
  const before = performance.eventLoopUtilization()
  const result = await action()
  const { utilization: busy } = performance.eventLoopUtilization(before)
  // If the action blocked the loop from start to end, only the next timer records the delay.
  await timer(1)
  delay.disable()
  const [p50, p99] = [50, 99].map((share) => beyond(delay.percentile(share))) as [number, number]
  return { result, watch: { p50, p99, max: beyond(delay.max), busy } }
}

/**
 * Combines the watches of several rounds: medians, except `max`, which is the worst of all rounds.
 */
export function eventLoopFigures(label: string, watched: ReadonlyMap<string, readonly LoopWatch[]>): Figures {
  const rows = [...watched].map(([name, watches]) => {
    // Histograms of separate rounds cannot be merged, so this takes the median of their values.
    const middle = (kind: 'p50' | 'p99' | 'busy'): number => median(watches.map((watch) => watch[kind]))
    const max = Math.max(...watches.map((watch) => watch.max))
    const delays = [middle('p50'), middle('p99'), max].map((time) => (time / 1e6).toFixed(2))
    return { name, cells: [...delays, `${(middle('busy') * 100).toFixed(0)} %`] }
  })
  return { label, columns: ['delay p50, ms', 'p99, ms', 'max, ms', 'loop busy'], rows }
}

/** The delay of a timer beyond its 1 ms, in nanoseconds. */
function beyond(nanoseconds: number): number {
  return Math.max(0, nanoseconds - 1e6)
}
