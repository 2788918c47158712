import { cp } from 'node:fs/promises'
import { join } from 'node:path'

import { expect, test } from 'vitest'

import { MiniQueue } from '../../src/miniqueue/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

/** A wall-clock time shortly after the fixture was written. */
const clock = {
  wallMs: (): number => Date.UTC(2026, 10, 21, 0, 0, 2),
  monotonicMs: (): number => 0,
  setTimer: (): (() => void) => () => {},
}

/**
 * A queue left by a process of version 0.3.0: two ready messages with earlier attempts, a new one
 * with a key, a delayed one, a dead letter, and the kept key of an acked message.
 */
test('a queue of version 0.3.0 opens with every message, attempt, key and dead letter', async () => {
  const directory = await temporaryDirectory()
  await cp(join(import.meta.dirname, '../fixtures/queue-v0.3.0'), directory, { recursive: true })
  const options = { clock, maxAttempts: 3, dedupeWindowMs: 3_600_000 }
  await using queue = await MiniQueue.open<{ job: string }>(directory, options)
  expect(queue.stats()).toMatchObject({ ready: 3, delayed: 1, inFlight: 0, dead: 1, oldestAgeMs: 2000 })
  const messages = await queue.receive({ max: 9 })
  expect(messages.map(({ id, attempt, payload }) => ({ id, attempt, job: payload.job }))).toEqual([
    { id: 4, attempt: 3, job: 'Žofie 😀' },
    { id: 2, attempt: 2, job: 'first' },
    { id: 6, attempt: 1, job: 'new' },
  ])
  // What that version did not know is absent, not invented.
  const listed = queue.messages().map(({ headers, maxAttempts = 'none' }) => `${JSON.stringify(headers)} ${maxAttempts}`)
  expect(listed).toEqual(Array<string>(5).fill('{} none'))
  const [letter] = queue.deadLetters()
  expect(letter).toMatchObject({ id: 1, attempts: 2, reason: 'no such address', payload: { job: 'poison' } })
  expect(await queue.enqueue({ job: 'the same' }, { dedupeKey: 'k' })).toBe(3)
  expect(await queue.enqueue({ job: 'another' })).toBe(7)
})

/**
 * A queue whose journal has batches. One batch enqueues a message and delivers it to a waiting
 * receive; another acks a handler's message and delivers the next one. A prefetched message was
 * returned on close.
 */
test('a queue of version 0.3.0 opens with its batches and its returned messages', async () => {
  const directory = await temporaryDirectory()
  await cp(join(import.meta.dirname, '../fixtures/queue-v0.3.0-together'), directory, { recursive: true })
  await using queue = await MiniQueue.open<{ job: string }>(directory, { clock, maxAttempts: 2 })
  expect(queue.stats()).toMatchObject({ ready: 3, delayed: 1, inFlight: 0, dead: 0 })
  const messages = await queue.receive({ max: 9 })
  expect(messages.map(({ id, attempt, payload }) => ({ id, attempt, job: payload.job }))).toEqual([
    { id: 1, attempt: 2, job: 'awaited' },
    { id: 4, attempt: 2, job: 'ahead' },
    { id: 5, attempt: 1, job: 'Žofie 😀' },
  ])
  expect(await queue.enqueue({ job: 'another' }, { dedupeKey: 'g' })).toBe(6)
})
