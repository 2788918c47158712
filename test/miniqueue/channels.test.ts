import { subscribe, unsubscribe } from 'node:diagnostics_channel'

import { expect, onTestFinished, test } from 'vitest'

import { openQueue, receiveOne } from './support.ts'

const names = ['enqueue', 'deliver', 'ack', 'nack', 'dead'] as const

/** Collects the messages published from now on, as [channel, message]. */
function listen(): unknown[] {
  const seen: unknown[] = []
  for (const name of names) {
    const listener = (message: unknown): void => void seen.push([name, message])
    subscribe(`miniqueue:${name}`, listener)
    onTestFinished(() => void unsubscribe(`miniqueue:${name}`, listener))
  }
  return seen
}

test('publishes every step of a message once it is durable', async () => {
  const seen = listen()
  const { queue, files, clock } = await openQueue({ maxAttempts: 2 })
  const directory = '/jobs'
  await queue.enqueueAll([{ payload: 'a' }, { payload: 'b' }])
  const [a, b] = await queue.receive({ max: 2 })
  await a?.ack()
  await b?.nack({ delayMs: 10, reason: 'later' })
  clock.advance(10)
  await (await receiveOne(queue)).nack({ reason: 'never' })
  expect(JSON.parse(JSON.stringify(seen))).toEqual(seen)
  expect(seen).toEqual([
    ['enqueue', { directory, ids: [1, 2] }],
    ['deliver', { directory, ids: [1, 2] }],
    ['ack', { directory, ids: [1] }],
    ['nack', { directory, id: 2, dueAt: clock.wallMs(), reason: 'later' }],
    ['deliver', { directory, ids: [2] }],
    ['dead', { directory, ids: [2], reason: 'never' }],
  ])
  files.failOn({ operation: 'write' }, 'ENOSPC')
  await expect(queue.enqueue('c')).rejects.toThrow(/ENOSPC/)
  expect(seen).toHaveLength(6)
  await queue.close()
})

test('publishes a delivery whose attempt was already counted, and no delivery that was not handed out', async () => {
  const { queue, files } = await openQueue()
  await queue.enqueue('a')
  const seen = listen()
  const controller = new AbortController()
  const stop = files.onOperation(() => controller.abort())
  await expect(queue.receive({ signal: controller.signal })).rejects.toThrow()
  stop()
  expect(seen).toEqual([])
  await queue.receive()
  expect(seen).toEqual([['deliver', { directory: '/jobs', ids: [1] }]])
  await queue.close()
})
