import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import { Alarm, systemClock } from '../../src/miniqueue/clock.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { SteppedClock } from '../crash/queue/clock.ts'
import { openQueue } from './support.ts'

describe('the clock of this machine', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] }))
  afterEach(() => void vi.useRealTimers())

  test('calls back once, unless it is cancelled', () => {
    const rings: string[] = []
    systemClock.setTimer(5.5, () => rings.push('one'), { keepsAlive: true })
    const cancel = systemClock.setTimer(6, () => rings.push('two'), { keepsAlive: false })
    vi.advanceTimersByTime(5)
    expect(rings).toEqual([])
    cancel()
    vi.advanceTimersByTime(100)
    expect(rings).toEqual(['one'])
  })

  test('keeps the process alive only when it is told to', () => {
    const unref = vi.fn<() => void>()
    vi.spyOn(globalThis, 'setTimeout').mockReturnValue({ unref } as never)
    systemClock.setTimer(5, () => {}, { keepsAlive: true })
    expect(unref).not.toHaveBeenCalled()
    systemClock.setTimer(5, () => {}, { keepsAlive: false })
    expect(unref).toHaveBeenCalledOnce()
    vi.mocked(globalThis.setTimeout).mockRestore()
  })

  test('goes forward', () => {
    const before = [systemClock.wallMs(), systemClock.monotonicMs()] as const
    expect(systemClock.wallMs()).toBeGreaterThanOrEqual(before[0])
    expect(systemClock.monotonicMs()).toBeGreaterThanOrEqual(before[1])
  })
})

describe('Alarm', () => {
  test('rings on time, for the earliest time that was set', () => {
    const clock = new SteppedClock()
    let rings = 0
    const alarm = new Alarm(clock, () => (rings += 1))
    alarm.set(100, { keepsAlive: false })
    alarm.set(50, { keepsAlive: false })
    alarm.set(70, { keepsAlive: false })
    expect(clock.timers).toBe(1)
    clock.advance(49)
    expect(rings).toBe(0)
    clock.advance(1)
    expect([rings, clock.timers]).toEqual([1, 0])
  })

  test('never sets a timer longer than the maximum, negative, or fractional', () => {
    const asked: number[] = []
    const clock = { wallMs: () => 0, monotonicMs: () => 0, setTimer: (ms: number) => (asked.push(ms), () => {}) }
    for (const ms of [Number.POSITIVE_INFINITY, 2 ** 31, -5, 0.25]) new Alarm(clock, () => {}).set(ms, { keepsAlive: false })
    expect(asked).toEqual([2 ** 31 - 1, 2 ** 31 - 1, 0, 1])
  })
})

test('a timer keeps the process alive only while a call waits', async () => {
  const clock = new SteppedClock()
  const kept: boolean[] = []
  const observed = {
    wallMs: clock.wallMs,
    monotonicMs: clock.monotonicMs,
    setTimer: (ms: number, callback: () => void, { keepsAlive }: { readonly keepsAlive: boolean }) => {
      kept.push(keepsAlive)
      return clock.setTimer(ms, callback)
    },
  }
  const { queue } = await openQueue({ clock: observed as SteppedClock, files: new SimulatedFileSystem() })
  await queue.enqueue('x')
  await queue.receive()
  expect(kept).toEqual([false])
  const waiting = queue.receive({ waitMs: 10 })
  await queue.purge()
  expect(kept).toEqual([false, true])
  clock.advance(10)
  expect(await waiting).toEqual([])
  expect(kept.at(-1)).toBe(false)
  await queue.close()
})

describe('an invalid clock or random source', () => {
  const late = (): never => Promise.reject(new Error('late')) as never

  test.each([late, () => Number.NaN])('is refused in the call that asks for the time, and nothing is written', async (wallMs) => {
    const clock = new SteppedClock()
    const { queue } = await openQueue({ clock })
    const right = clock.wallMs
    Object.assign(clock, { wallMs })
    await expect(queue.enqueue('x')).rejects.toThrow(/^Expected `clock.wallMs` to give milliseconds/)
    Object.assign(clock, { wallMs: right })
    expect(queue.stats().ready).toBe(0)
    await queue.close()
  })

  test('may return a promise for a timer, which cannot be cancelled and whose rejection is harmless', async () => {
    const clock = new SteppedClock()
    Object.assign(clock, { setTimer: late })
    const { queue } = await openQueue({ clock })
    await queue.enqueue('x', { delayMs: 5 })
    await queue.enqueue('y', { delayMs: 1 })
    expect(queue.stats().delayed).toBe(2)
    await queue.close()
  })

  test.each([late, () => Number.NaN, () => 2])('is refused in the nack that asks for a random number', async (random) => {
    const { queue } = await openQueue({ random })
    await queue.enqueue('x')
    const [message] = await queue.receive()
    await expect(message?.nack()).rejects.toThrow(/^Expected `random` to give a number from 0 up to 1/)
    await message?.ack()
    await queue.close()
  })
})
