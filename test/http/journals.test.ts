import { join } from 'node:path'

import { expect, test } from 'vitest'

import { durableStreams, type ServedJournal } from '../../src/http/index.ts'
import { MiniStore } from '../../src/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { ask, offsetIn } from './support.ts'

async function openStore(): Promise<MiniStore> {
  return await MiniStore.open(join(await temporaryDirectory(), 'journal.jsonl'))
}

/** Reads server-sent events until they hold a text. */
async function eventsUntil({ body }: Response, text: string): Promise<string> {
  let received = ''
  for await (const part of body as ReadableStream<Uint8Array>) {
    received += Buffer.from(part).toString()
    if (received.includes(text)) break
  }
  return received
}

test('a journal is a JSON stream whose offsets are sequence numbers, and can only be read', async () => {
  await using store = await openStore()
  await store.appendAll([{ n: 1 }, [2], 'three'])
  await using streams = await durableStreams({ journals: { 'my orders': store } })
  const all = await ask(streams, 'GET /my%20orders')
  expect(await all.json()).toEqual([{ n: 1 }, [2], 'three'])
  expect([offsetIn(all), all.headers.get('stream-up-to-date'), all.headers.get('content-type')]).toEqual(['0000000000000003', 'true', 'application/json'])
  expect(await (await ask(streams, 'GET /my%20orders?offset=0000000000000001')).json()).toEqual([[2], 'three'])
  expect(offsetIn(await ask(streams, 'HEAD /my%20orders'))).toBe('0000000000000003')
  for (const method of ['PUT', 'POST', 'DELETE']) {
    const answer = await ask(streams, `${method} /my%20orders`, { body: '1' })
    expect([answer.status, answer.headers.get('allow')]).toEqual([405, 'GET, HEAD, OPTIONS'])
  }
  expect((await ask(streams, 'PUT /new')).status).toBe(405)
  expect((await ask(streams, 'GET /toString')).status).toBe(404)
})

test('a journal in parts that were deleted answers 410, and its beginning is what is left', async () => {
  await using store = await openStore()
  await store.appendAll([1, 2])
  await store.rotate()
  await store.append(3)
  await store.truncateBefore(3)
  await using streams = await durableStreams({ journals: { orders: store } })
  for (const offset of ['0000000000000000', '0000000000000001']) expect((await ask(streams, `GET /orders?offset=${offset}`)).status).toBe(410)
  expect(await (await ask(streams, 'GET /orders?offset=0000000000000002')).json()).toEqual([3])
  for (const path of ['/orders', '/orders?offset=-1']) expect(await (await ask(streams, `GET ${path}`)).json()).toEqual([3])
})

test.each(['an open store', 'the path of a journal that another writer has open'])('%s is followed live, across rotations', async (kind) => {
  await using store = await openStore()
  await store.append('before')
  await using streams = await durableStreams({ journals: { log: kind === 'an open store' ? store : store.path } })
  // Not `now`: a path is read to know what that is, and the record may be appended meanwhile.
  const poll = ask(streams, 'GET /log?offset=0000000000000001&live=long-poll')
  const sse = ask(streams, 'GET /log?offset=-1&live=sse')
  await store.append('one')
  expect(await (await poll).json()).toEqual(['one'])
  const response = await sse
  for (const record of ['two', 'three']) {
    await store.rotate()
    await store.append(record)
  }
  const events = await eventsUntil(response, 'three')
  const received = [...events.matchAll(/^event: data\ndata:(.*)$/gm)].flatMap(([, data]) => JSON.parse(data ?? '') as unknown[])
  expect(received).toEqual(['before', 'one', 'two', 'three'])
})

test('one follower serves all readers', async () => {
  await using store = await openStore()
  let followers = 0
  let reads = 0
  const counted: ServedJournal = {
    get id() {
      return store.id
    },
    get firstSequence() {
      return store.firstSequence
    },
    get lastSequence() {
      return store.lastSequence
    },
    entries: (options) => {
      if (options?.follow === true) followers += 1
      else reads += 1
      return store.entries(options)
    },
  }
  await using streams = await durableStreams({ journals: { log: counted } })
  const readers = Array.from({ length: 50 }, () => ask(streams, 'GET /log?offset=now&live=long-poll'))
  await ask(streams, 'GET /log?offset=now')
  await store.append('news')
  for (const reader of readers) expect(await (await reader).json()).toEqual(['news'])
  expect({ followers, reads }).toEqual({ followers: 1, reads: 0 })
})

test('a journal with a codec is served as its codec reads it', async () => {
  const codec = { encode: (record: Date) => `at ${record.toISOString()}`, decode: (line: string) => new Date(line.slice(3)) }
  await using store = await MiniStore.open(join(await temporaryDirectory(), 'journal.jsonl'), { codec })
  await store.append(new Date(0))
  await using streams = await durableStreams({ journals: { log: store } })
  expect(await (await ask(streams, 'GET /log')).json()).toEqual(['1970-01-01T00:00:00.000Z'])
})

test('when a journal is closed, those who wait are told, and later readers too', async () => {
  const store = await openStore()
  const reported: unknown[] = []
  await using streams = await durableStreams({ journals: { log: store }, onError: (error) => reported.push(error) })
  const poll = ask(streams, 'GET /log?offset=now&live=long-poll')
  // The follower is there once another request was answered.
  await ask(streams, 'GET /log?offset=now')
  await store.close()
  expect((await poll).status).toBe(503)
  expect((await ask(streams, 'GET /log?offset=now&live=long-poll')).status).toBe(503)
  expect(reported).toMatchObject([{ code: 'ERR_MINISTORE_CLOSED' }, { code: 'ERR_MINISTORE_CLOSED' }])
})

test('a slow reader of server-sent events costs one event, whatever is appended meanwhile', async () => {
  await using store = await openStore()
  await using streams = await durableStreams({ journals: { log: store }, maxChunkBytes: 1000 })
  const { body } = await ask(streams, 'GET /log?offset=-1&live=sse')
  const reader = (body as ReadableStream<Uint8Array>).getReader()
  await reader.read()
  for (let n = 0; n < 50; n++) await store.append('x'.repeat(990))
  // Each event is made when the one before is taken.
  let size = 0
  for (let n = 0; n < 10; n++) size = Math.max(size, (await reader.read()).value?.length ?? 0)
  expect(size).toBeLessThan(70_000)
  await reader.cancel()
})

test('options are checked', async () => {
  await expect(durableStreams({})).rejects.toThrow('Expected `directory` or `journals`, got neither')
  await expect(durableStreams({ directory: 'x', prefix: 'v1' })).rejects.toThrow('`prefix`')
  await expect(durableStreams({ directory: 'x', allowOrigin: 'example.com' })).rejects.toThrow('`allowOrigin`')
  await expect(durableStreams({ journals: { '': 'x' } })).rejects.toThrow('`journals`')
  await expect(durableStreams({ journals: { a: 1 as unknown as string } })).rejects.toThrow('Expected the journal "a" to be a path or a journal')
  await expect(durableStreams({ directory: 'x', longPolMs: 1 } as object)).rejects.toThrow('did you mean `longPollMs`?')
})
