import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { afterEach, expect, test, vi } from 'vitest'

import { durableStreams } from '../../src/http/index.ts'
import { directoryName } from '../../src/http/open-streams.ts'
import { MiniStore } from '../../src/index.ts'
import { SimulatedFileSystem } from '../../src/testing/index.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'
import { ask, offsetIn } from './support.ts'

afterEach(() => {
  vi.useRealTimers()
})

const producer = (epoch: number, seq: number, id = 'service'): Record<string, string> => ({
  'producer-id': id, 'producer-epoch': String(epoch), 'producer-seq': String(seq),
})

test('a restart keeps messages, offsets, producers, Stream-Seq and the end of a stream', async () => {
  const directory = await temporaryDirectory()
  const first = await durableStreams({ directory })
  expect((await ask(first, 'PUT /orders', { body: '[{"n":1}]' })).status).toBe(201)
  expect((await ask(first, 'POST /orders', { body: '{"n":2}', headers: { ...producer(3, 0), 'stream-seq': 'b' } })).status).toBe(200)
  const end = offsetIn(await ask(first, 'POST /orders', { body: '[{"n":3},{"n":4}]', headers: { ...producer(3, 1), 'stream-closed': 'true' } }))
  await first.close()

  await using second = await durableStreams({ directory })
  const all = await ask(second, 'GET /orders')
  expect(await all.json()).toEqual([{ n: 1 }, { n: 2 }, { n: 3 }, { n: 4 }])
  expect(offsetIn(all)).toBe(end)
  expect(all.headers.get('stream-closed')).toBe('true')
  const again = await ask(second, 'POST /orders', { body: '{}', headers: producer(3, 1) })
  expect([again.status, again.headers.get('producer-seq')]).toEqual([204, '1'])
  expect((await ask(second, 'POST /orders', { body: '{}', headers: producer(2, 0) })).status).toBe(403)
  expect((await ask(second, 'POST /orders', { body: '{}', headers: { 'stream-seq': 'c' } })).status).toBe(409)
})

test('one request is one line, in which cat and jq find the messages as they were sent', async () => {
  const directory = await temporaryDirectory()
  {
    await using streams = await durableStreams({ directory })
    await ask(streams, 'PUT /a/B.c', { headers: { 'content-type': 'application/json; charset=utf-8' } })
    await ask(streams, 'POST /a/B.c', { body: '[ {"n": 1.0,\n "id": 12345678901234567890}, 2 ]', headers: producer(0, 0) })
    await ask(streams, 'PUT /text', { headers: { 'content-type': 'text/plain' }, body: 'naïve "text"\r\n' })
    await ask(streams, 'POST /text', { headers: { 'content-type': 'text/plain' }, body: Uint8Array.of(0xff, 0, 10) })
    expect(await (await ask(streams, 'GET /a/B.c')).text()).toBe('[{"n": 1.0,  "id": 12345678901234567890}, 2]')
    const bytes = new Uint8Array(await (await ask(streams, 'GET /text')).arrayBuffer())
    expect(bytes).toEqual(Uint8Array.from([...Buffer.from('naïve "text"\r\n'), 0xff, 0, 10]))
  }
  const lines = async (name: string): Promise<string[]> => {
    const text = await readFile(join(directory, name, 'journal.jsonl'), 'utf8')
    return text.split('\n').slice(1, -1)
  }
  expect(await lines('+a+=42=2ec')).toEqual([
    '{"create":{"name":"a/B.c","type":"application/json; charset=utf-8"}}',
    '{"producer":["service",0,0],"messages":[{"n": 1.0,  "id": 12345678901234567890}, 2]}',
  ])
  expect(await lines('+text')).toEqual([
    '{"create":{"name":"text","type":"text/plain"},"text":"naïve \\"text\\"\\r\\n"}',
    '{"base64":"/wAK"}',
  ])
})

test('a stream whose bytes look like the format of its records reads back as it was written', async () => {
  await using streams = await durableStreams({ directory: await temporaryDirectory() })
  const tricky = ['"text":"', '"base64":"', '{"messages":[1]}', '\\"text\\":\\"', '"}', '\u0000', '\ufeffmark']
  await ask(streams, 'PUT /tricky', { headers: { 'content-type': 'text/plain' } })
  for (const [seq, body] of tricky.entries()) {
    const headers = { 'content-type': 'text/plain', 'stream-seq': String(seq), ...producer(0, seq, '"messages":["text":"') }
    expect((await ask(streams, 'POST /tricky', { headers, body })).status).toBe(200)
  }
  expect(await (await ask(streams, 'GET /tricky')).arrayBuffer()).toEqual(Uint8Array.from(Buffer.from(tricky.join(''))).buffer)
  await ask(streams, 'PUT /json')
  const values = ['"messages":[', { messages: [1], text: 'x', create: { name: 'y' }, __proto__: null }, [], [[]], null]
  await ask(streams, 'POST /json', { body: JSON.stringify(values) })
  expect(await (await ask(streams, 'GET /json')).json()).toEqual(values)
})

test('no path leads out of the directory, and each has a directory of its own', async () => {
  const directory = await temporaryDirectory()
  const paths = [
    '/..%2f..%2fescape', '/.%00', '/a/../../b', '/C:%5cwindows', '/con', '/a', '/A', '/%41', '/a/', '/a//b', '/+', '/server.lock',
    '/=2f', `/${'long/'.repeat(200)}`, `/${'long/'.repeat(200)}other`, '/trailing.', '/%C3%A9',
  ]
  {
    await using streams = await durableStreams({ directory })
    for (const [n, path] of paths.entries()) expect((await ask(streams, `PUT ${path}`, { body: String(n) })).status, path).toBe(201)
    for (const [n, path] of paths.entries()) expect(await (await ask(streams, `GET ${path}`)).json(), path).toEqual([n])
    expect((await ask(streams, 'PUT /')).status).toBe(404)
    expect((await ask(streams, `PUT /${'x'.repeat(2048)}`)).status).toBe(414)
  }
  const names = await readdir(directory)
  expect(names.filter((name) => name.startsWith('+'))).toHaveLength(paths.length)
  for (const name of names) expect(name).toMatch(/^(?:\+[a-z0-9_=+-]{0,220}|server\.lock)$/)
  expect(await readdir(join(directory, '..'))).not.toContain('escape')
})

test('different names have different directories, of at most 200 characters and safe ones only', () => {
  const names = ['a', 'A', 'a/b', 'a+b', 'a=2fb', '', 'x'.repeat(199), 'x'.repeat(200), 'X'.repeat(66), 'X'.repeat(67)]
  const directories = names.map(directoryName)
  expect(new Set(directories).size).toBe(names.length)
  for (const name of directories) expect(name).toMatch(/^\+[a-z0-9_=+-]{0,199}$/)
})

test('names that every object has are ordinary streams and producers', async () => {
  await using streams = await durableStreams({ directory: await temporaryDirectory(), journals: { own: await emptyJournal() } })
  for (const name of ['__proto__', 'constructor', 'toString', 'hasOwnProperty']) {
    expect((await ask(streams, `GET /${name}`)).status).toBe(404)
    expect((await ask(streams, `PUT /${name}`)).status).toBe(201)
    expect((await ask(streams, `POST /${name}`, { body: '1', headers: producer(0, 1, name) })).status).toBe(409)
    expect((await ask(streams, `POST /${name}`, { body: '{"__proto__":{"isAdmin":true}}', headers: producer(0, 0, name) })).status).toBe(200)
    expect(await (await ask(streams, `GET /${name}`)).text()).toBe('[{"__proto__":{"isAdmin":true}}]')
  }
  expect(({} as { isAdmin?: boolean }).isAdmin).toBeUndefined()
})

test('requests that wait are judged in order and written with one fsync', async () => {
  const files = new SimulatedFileSystem()
  await using streams = await durableStreams({ directory: '/streams', fileSystem: files })
  await ask(streams, 'PUT /s')
  let syncs = 0
  files.onOperation(({ operation }) => {
    if (operation === 'dataSync') syncs += 1
  })
  const numbers = [0, 1, 1, 3, 2]
  const answers = await Promise.all(numbers.map((seq) => ask(streams, 'POST /s', { body: `[${seq}]`, headers: producer(0, seq) })))
  // 3 came before 2, and 1 came twice.
  expect(answers.map(({ status }) => status)).toEqual([200, 200, 204, 409, 200])
  expect(await (await ask(streams, 'GET /s')).json()).toEqual([0, 1, 2])
  expect(syncs).toBeLessThan(3)
})

test('a disk that is full answers 507, writes nothing, and goes on when there is room', async () => {
  const files = new SimulatedFileSystem()
  await using streams = await durableStreams({ directory: '/streams', fileSystem: files })
  await ask(streams, 'PUT /s', { body: '[0]' })
  const full = files.failOn({ operation: 'write', times: 'always' }, 'ENOSPC')
  const refused = await ask(streams, 'POST /s', { body: '[1]', headers: producer(0, 0) })
  expect([refused.status, refused.headers.get('retry-after')]).toEqual([507, '1'])
  expect((await ask(streams, 'PUT /new', { body: '[1]' })).status).toBe(507)
  expect(await (await ask(streams, 'GET /s')).json()).toEqual([0])
  full.remove()
  expect((await ask(streams, 'POST /s', { body: '[2]', headers: producer(0, 0) })).status).toBe(200)
  expect((await ask(streams, 'GET /new')).status).toBe(404)
  expect((await ask(streams, 'PUT /new', { body: '[1]' })).status).toBe(201)
  expect(await (await ask(streams, 'GET /s')).json()).toEqual([0, 2])
})

test('after a failed fsync the outcome is unknown, and the next request finds what is there', async () => {
  const files = new SimulatedFileSystem()
  await using streams = await durableStreams({ directory: '/streams', fileSystem: files })
  await ask(streams, 'PUT /s', { body: '[0]' })
  files.failOn({ operation: 'dataSync' }, 'EIO')
  expect((await ask(streams, 'POST /s', { body: '[1]', headers: producer(0, 0) })).status).toBe(503)
  const retried = await ask(streams, 'POST /s', { body: '[1]', headers: producer(0, 0) })
  expect([200, 204]).toContain(retried.status)
  expect(await (await ask(streams, 'GET /s')).json()).toEqual([0, 1])
})

test('a damaged stream answers 500 and is reported, and the others go on', async () => {
  const directory = await temporaryDirectory()
  const reported: unknown[] = []
  {
    await using streams = await durableStreams({ directory })
    for (const name of ['bad', 'good']) await ask(streams, `PUT /${name}`, { body: '[1,2]' })
  }
  const path = join(directory, '+bad', 'journal.jsonl')
  await writeFile(path, (await readFile(path, 'utf8')).replace('"create"', '"crEate"'))
  await using streams = await durableStreams({ directory, onError: (error) => reported.push(error) })
  expect((await ask(streams, 'GET /bad')).status).toBe(500)
  expect((await ask(streams, 'PUT /bad')).status).toBe(500)
  expect(reported).toMatchObject([{ code: 'ERR_MINISTORE_CORRUPT' }, { code: 'ERR_MINISTORE_CORRUPT' }])
  expect((await ask(streams, 'GET /good')).status).toBe(200)
})

test('limits: body, headers, streams and readers', async () => {
  await using streams = await durableStreams({ directory: await temporaryDirectory(), maxBodyBytes: 10, maxStreams: 2, maxReaders: 1, longPollMs: 60_000 })
  await ask(streams, 'PUT /s')
  expect((await ask(streams, 'POST /s', { body: '"0123456"' })).status).toBe(204)
  expect((await ask(streams, 'POST /s', { body: '"012345678"' })).status).toBe(413)
  const endless = new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(8)) })
  const chunked = new Request('http://localhost/s', { method: 'POST', body: endless, duplex: 'half', headers: { 'content-type': 'application/json' } })
  expect((await streams.handler(chunked)).status).toBe(413)
  expect((await ask(streams, 'POST /s', { body: '1', headers: producer(0, 0, 'x'.repeat(1025)) })).status).toBe(431)
  expect((await ask(streams, 'PUT /t')).status).toBe(201)
  expect((await ask(streams, 'PUT /u')).status).toBe(507)
  expect((await ask(streams, 'PUT /t')).status).toBe(200)
  await ask(streams, 'DELETE /t')
  expect((await ask(streams, 'PUT /u')).status).toBe(201)
  const waiting = ask(streams, 'GET /s?offset=now&live=long-poll')
  expect((await ask(streams, 'GET /u?offset=now&live=sse')).status).toBe(503)
  await ask(streams, 'POST /s', { body: '1' })
  expect((await waiting).status).toBe(200)
  const sse = await ask(streams, 'GET /u?offset=now&live=sse')
  await sse.body?.cancel()
  expect((await ask(streams, 'GET /u?offset=now&live=sse')).status).toBe(200)
})

test('invalid requests get the status that says why', async () => {
  await using streams = await durableStreams({ directory: await temporaryDirectory(), prefix: '/v1/' })
  await ask(streams, 'PUT /v1/s')
  const end = offsetIn(await ask(streams, 'POST /v1/s', { body: '1' }))
  const statuses = async (asked: ReadonlyArray<readonly [string, Parameters<typeof ask>[2]?]>): Promise<number[]> =>
    await Promise.all(asked.map(async ([what, how]) => (await ask(streams, what, how)).status))
  expect(await statuses([
    ['GET /s'], ['GET /v1/'], ['PUT /other/s'], ['PATCH /v1/s'],
    ['GET /v1/s?live=sse'], ['GET /v1/s?offset=now&live=socket'], ['GET /v1/s?offset=0'],
    [`GET /v1/s?offset=${String(Number(end) + 1).padStart(16, '0')}`], ['GET /v1/s?offset=9007199254740992'],
    ['PUT /v1/t', { headers: { 'stream-ttl': '1e3' } }], ['PUT /v1/t', { headers: { 'stream-expires-at': 'tomorrow' } }],
    ['PUT /v1/t', { headers: { 'stream-forked-from': '/v1/none' } }], ['PUT /v1/t', { headers: { 'stream-forked-from': 'http://[' } }],
    ['POST /v1/s', { body: '1', headers: { 'producer-id': 'p', 'producer-epoch': '0', 'producer-seq': '9007199254740992' } }],
    ['POST /v1/s', { body: '{' }], ['POST /v1/s', { body: Uint8Array.of(0x22, 0xff, 0x22) }], ['POST /v1/s', { body: '[ ]' }],
  ])).toEqual([404, 404, 404, 405, 400, 400, 400, 400, 400, 400, 400, 404, 404, 400, 400, 400, 400])
})

test('only pages of the allowed origin may use the streams from a browser', async () => {
  const directory = await temporaryDirectory()
  const origin = 'https://app.example'
  {
    await using closed = await durableStreams({ directory })
    expect((await ask(closed, 'PUT /s', { headers: { origin } })).status).toBe(403)
    const own = await ask(closed, 'PUT /s', { headers: { origin: 'http://localhost' } })
    expect([own.status, own.headers.get('access-control-allow-origin')]).toEqual([201, null])
    expect(own.headers.get('cross-origin-resource-policy')).toBe('same-origin')
  }
  await using open = await durableStreams({ directory, allowOrigin: origin })
  expect((await ask(open, 'GET /s', { headers: { origin: 'https://evil.example' } })).status).toBe(403)
  const allowed = await ask(open, 'OPTIONS /s', { headers: { origin } })
  expect([allowed.status, allowed.headers.get('access-control-allow-origin'), allowed.headers.get('vary')]).toEqual([204, origin, 'origin'])
})

test('caches may keep what never changes, and must ask at the tail', async () => {
  await using streams = await durableStreams({ directory: await temporaryDirectory(), maxChunkBytes: 1 })
  await ask(streams, 'PUT /s', { headers: { 'stream-ttl': '30' } })
  for (const body of ['1', '2']) await ask(streams, 'POST /s', { body })
  const part = await ask(streams, 'GET /s')
  expect([await part.text(), part.headers.get('cache-control'), part.headers.get('stream-up-to-date')]).toEqual(['[1]', 'private, max-age=30', null])
  const rest = await ask(streams, `GET /s?offset=${offsetIn(part)}`)
  expect([await rest.text(), rest.headers.get('cache-control'), rest.headers.get('stream-up-to-date')]).toEqual(['[2]', 'private, no-cache', 'true'])
  const same = await ask(streams, `GET /s?offset=${offsetIn(part)}`, { headers: { 'if-none-match': rest.headers.get('etag') ?? '' } })
  expect([same.status, await same.text()]).toEqual([304, ''])
})

test('no more journals are open than allowed, and the one used least recently is closed', async () => {
  const directory = await temporaryDirectory()
  await using streams = await durableStreams({ directory, maxOpenStreams: 3, longPollMs: 60_000 })
  const names = Array.from({ length: 20 }, (_, n) => `s${n}`)
  await Promise.all(names.map((name) => ask(streams, `PUT /${name}`)))
  // They wait for messages of more streams than may be open.
  const waiting = names.map((name) => ask(streams, `GET /${name}?offset=now&live=long-poll`))
  await Promise.all(names.map((name, n) => ask(streams, `POST /${name}`, { body: String(n) })))
  const received: unknown[] = await Promise.all(waiting.map(async (answer) => await (await answer).json()))
  expect(received).toEqual(names.map((_, n) => [n]))
  // Only an open one is locked.
  const outcomes = await Promise.allSettled(names.map((name) => MiniStore.open(join(directory, `+${name}`, 'journal.jsonl'))))
  expect(outcomes.filter(({ status }) => status === 'rejected')).toHaveLength(3)
  for (const outcome of outcomes) if (outcome.status === 'fulfilled') await outcome.value.close()
})

test('a second server of the directory is refused', async () => {
  const directory = await temporaryDirectory()
  await using first = await durableStreams({ directory })
  await expect(durableStreams({ directory })).rejects.toMatchObject({ code: 'ERR_MINISTORE_LOCKED' })
  await first.close()
  await (await durableStreams({ directory })).close()
  expect((await ask(first, 'GET /s')).status).toBe(503)
})

test('a deletion that a crash interrupted is finished by the next request', async () => {
  const directory = await temporaryDirectory()
  {
    await using streams = await durableStreams({ directory })
    await ask(streams, 'PUT /s', { body: '[1]' })
  }
  await writeFile(join(directory, '+s', 'deleted'), '')
  await using streams = await durableStreams({ directory })
  expect((await ask(streams, 'GET /s')).status).toBe(404)
  expect(await readdir(directory)).not.toContain('+s')
  expect((await ask(streams, 'PUT /s', { body: '[2]' })).status).toBe(201)
  expect(await (await ask(streams, 'GET /s')).json()).toEqual([2])
  expect((await ask(streams, 'DELETE /s')).status).toBe(204)
  expect(await readdir(directory)).not.toContain('+s')
})

test('a directory that is no stream is none', async () => {
  const directory = await temporaryDirectory()
  await mkdir(join(directory, '+empty'), { recursive: true })
  await using streams = await durableStreams({ directory })
  expect((await ask(streams, 'GET /empty')).status).toBe(404)
  expect((await ask(streams, 'DELETE /empty')).status).toBe(404)
  expect((await ask(streams, 'PUT /empty')).status).toBe(201)
  await rm(join(directory, '+empty'), { recursive: true })
  expect((await ask(streams, 'DELETE /empty')).status).toBe(204)
})

test('a stream with a time to live survives a restart for as long as reads may have prolonged it', async () => {
  vi.useFakeTimers({ toFake: ['Date'] })
  const directory = await temporaryDirectory()
  const first = await durableStreams({ directory })
  await ask(first, 'PUT /s', { headers: { 'stream-ttl': '800' } })
  const begun = Date.now()
  vi.setSystemTime(begun + 99_000)
  expect((await ask(first, 'GET /s')).status).toBe(200)
  // As after a crash: the read was not written, because the last time was less than 100 s ago.
  await first.close()
  const second = await durableStreams({ directory })
  vi.setSystemTime(begun + 899_000)
  expect((await ask(second, 'HEAD /s')).status).toBe(200)
  vi.setSystemTime(begun + 901_000)
  expect((await ask(second, 'HEAD /s')).status).toBe(404)
  await second.close()
})

test('deleteExpired deletes what nobody asks for, also streams with long names', async () => {
  vi.useFakeTimers({ toFake: ['Date'] })
  const directory = await temporaryDirectory()
  await using streams = await durableStreams({ directory })
  const long = `/${'x'.repeat(500)}`
  for (const path of ['/short', long]) await ask(streams, `PUT ${path}`, { headers: { 'stream-ttl': '1' } })
  await ask(streams, 'PUT /stays', { headers: { 'stream-ttl': '1000' } })
  vi.setSystemTime(Date.now() + 2001)
  await streams.deleteExpired()
  expect((await readdir(directory)).filter((name) => name.startsWith('+'))).toEqual(['+stays'])
})

test('a fork that was noted and never made does not keep its source', async () => {
  const directory = await temporaryDirectory()
  {
    await using streams = await durableStreams({ directory })
    await ask(streams, 'PUT /source', { body: '[1]' })
  }
  const journal = await MiniStore.open(join(directory, '+source', 'journal.jsonl'))
  await journal.append({ fork: 'never' })
  await journal.close()
  await using streams = await durableStreams({ directory })
  expect((await ask(streams, 'DELETE /source')).status).toBe(204)
  expect((await ask(streams, 'HEAD /source')).status).toBe(404)
})

test('forks being made and deleted at once never lose their source', async () => {
  await using streams = await durableStreams({ directory: await temporaryDirectory(), maxOpenStreams: 4 })
  await ask(streams, 'PUT /source', { body: '["old"]' })
  const fork = (name: string): Promise<Response> => ask(streams, `PUT /${name}`, { headers: { 'stream-forked-from': '/source' }, body: JSON.stringify([name]) })
  const names = Array.from({ length: 12 }, (_, n) => `f${n}`)
  await Promise.all(names.map(async (name, n) => {
    await fork(name)
    if (n % 2 === 0) return
    await ask(streams, `DELETE /${name}`)
    await fork(name)
  }))
  expect((await ask(streams, 'DELETE /source')).status).toBe(204)
  for (const name of names) expect(await (await ask(streams, `GET /${name}`)).json()).toEqual(['old', name])
  expect((await ask(streams, 'GET /source')).status).toBe(410)
  await Promise.all(names.map((name) => ask(streams, `DELETE /${name}`)))
  expect((await ask(streams, 'GET /source')).status).toBe(404)
})

test('close answers those that wait, and ends what is followed', async () => {
  const streams = await durableStreams({ directory: await temporaryDirectory() })
  await ask(streams, 'PUT /s')
  const poll = ask(streams, 'GET /s?offset=now&live=long-poll')
  const sse = await ask(streams, 'GET /s?offset=now&live=sse')
  const events = sse.text()
  await streams.close()
  expect((await poll).status).toBe(204)
  expect(await events).toMatch(/^event: control\n/)
})

async function emptyJournal(): Promise<string> {
  const path = join(await temporaryDirectory(), 'journal.jsonl')
  await (await MiniStore.open(path)).close()
  return path
}
