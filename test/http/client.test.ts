import { DurableStream, IdempotentProducer, stream } from '@durable-streams/client'
import { expect, test } from 'vitest'

import { temporaryDirectory } from '../support/temporary-directory.ts'
import { serve } from './support.ts'

interface Numbered {
  readonly n: number
}

test('the client of the protocol produces, tails, and resumes after a restart of the server', async () => {
  const directory = await temporaryDirectory()
  const first = await serve({ directory, longPollMs: 200 })
  const { port } = new URL(first.url)
  const url = `${first.url}/numbers`
  const numbers = await DurableStream.create({ url, contentType: 'application/json' })
  const producer = new IdempotentProducer(numbers, 'client', { autoClaim: true, maxInFlight: 1, lingerMs: 0 })
  for (let n = 0; n < 20; n++) producer.append(JSON.stringify({ n }))
  await producer.flush()

  const head = await stream<Numbered>({ url, offset: '-1', live: false })
  expect(await head.json()).toEqual(Array.from({ length: 20 }, (_, n) => ({ n })))

  for (const live of ['long-poll', 'sse'] as const) {
    const stop = new AbortController()
    const tail = await stream<Numbered>({ url, offset: head.offset, live, signal: stop.signal })
    const received = new Promise<number>((resolve) => {
      tail.subscribeJson(({ items }) => {
        for (const { n } of items) if (n === 100) resolve(n)
      })
    })
    await numbers.append(JSON.stringify({ n: 100 }))
    expect(await received, live).toBe(100)
    stop.abort()
  }
  await first.close()

  await using second = await serve({ directory, longPollMs: 200, port: Number(port) })
  expect(second.url).toBe(first.url)
  producer.append(JSON.stringify({ n: 20 }))
  await producer.flush()
  await producer.close()
  const rest = await stream<Numbered>({ url, offset: head.offset, live: false })
  expect(await rest.json()).toEqual([{ n: 100 }, { n: 100 }, { n: 20 }])
  expect((await stream({ url, offset: rest.offset, live: true })).streamClosed).toBe(true)
})

test('a body that is too large is answered with 413 while it is still being sent, and requests go on', { timeout: 60_000 }, async () => {
  await using server = await serve({ directory: await temporaryDirectory(), maxBodyBytes: 1_000_000 })
  const url = `${server.url}/bytes`
  const headers = { 'content-type': 'application/octet-stream' }
  await fetch(url, { method: 'PUT', headers })
  const post = async (body: string | Uint8Array | ReadableStream<Uint8Array>): Promise<number> => {
    const response = await fetch(url, { method: 'POST', headers, body, duplex: 'half', signal: AbortSignal.timeout(5000) })
    await response.arrayBuffer()
    return response.status
  }
  const statuses = new Set<number>()
  for (let round = 0; round < 20; round++) {
    let parts = 0
    const chunked = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (parts++ === 100) controller.close()
        else controller.enqueue(new Uint8Array(65_536))
      },
    })
    statuses.add(await post(chunked))
    statuses.add(await post(new Uint8Array(6_553_600)))
  }
  expect([...statuses]).toEqual([413])
  expect(await post('small')).toBe(204)
})
