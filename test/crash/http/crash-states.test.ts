import '../../support/fixed-identity.ts'

import { afterAll, expect, test } from 'vitest'

import { type DurableStreams, durableStreams } from '../../../src/http/index.ts'
import { SimulatedFileSystem, type TornVariant } from '../../../src/testing/index.ts'
import { ask, type Asked } from '../../http/support.ts'
import { scaled } from '../../support/crash-scale.ts'

/** What a crash at some moment may leave, and what must then be there. */
interface Moment {
  readonly operation: string
  readonly states: Iterable<SimulatedFileSystem>
  readonly check: (streams: DurableStreams) => Promise<void>
}

const limit = scaled(4, 60)
const mild: readonly TornVariant[] = ['cut', 'zeros']
let judged = 0

afterAll(() => {
  console.log(`stream crashes: ${judged} states opened`)
})

/** Runs a workload, crashes it before every operation, opens what is left, and checks it. */
async function crash(
  workload: (streams: DurableStreams) => Promise<void>,
  check: () => Moment['check'],
  tornVariants?: readonly TornVariant[],
): Promise<void> {
  const files = new SimulatedFileSystem()
  const moments: Moment[] = []
  let seed = 0
  const stop = files.onOperation(({ operation, path }) => {
    if (['stat', 'list', 'realPath', 'read', 'close'].includes(operation)) return
    const states = [...files.crashStates({ limit, seed: (seed += 1), ...(tornVariants === undefined ? {} : { tornVariants }) }), files.afterKill()]
    moments.push({ operation: `${operation} ${path}`, states, check: check() })
  })
  const streams = await durableStreams({ directory: '/streams', fileSystem: files, maxBodyBytes: 2000 })
  await workload(streams)
  await streams.close()
  stop()
  expect(moments.length).toBeGreaterThan(20)
  for (const moment of moments) {
    for (const state of moment.states) {
      const reopened = await durableStreams({ directory: '/streams', fileSystem: state, maxBodyBytes: 2000 })
      try {
        await moment.check(reopened)
        judged += 1
      } catch (error) {
        throw new Error(`After a crash before ${moment.operation}`, { cause: error })
      } finally {
        await reopened.close()
      }
    }
  }
}

/** What a client can see of a stream. */
async function seen(streams: DurableStreams, name: string): Promise<string> {
  const answer = await ask(streams, `GET /${name}`)
  return answer.status === 200 ? `${await answer.text()}${answer.headers.get('stream-closed') === 'true' ? ' closed' : ''}` : String(answer.status)
}

test('each request takes effect as a whole or not at all, and for good once it is answered', async () => {
  const fork = { 'stream-forked-from': '/source' }
  const steps: ReadonlyArray<readonly [what: string, status: number, how?: Asked]> = [
    ['PUT /a', 201, { body: '[1,2]' }],
    ['POST /a', 204, { body: '[3,4]', headers: { 'stream-seq': 'x' } }],
    ['DELETE /a', 204],
    ['PUT /a', 201, { body: '["new"]' }],
    ['POST /a', 204, { headers: { 'stream-closed': 'true' } }],
    ['PUT /source', 201, { body: '["s"]' }],
    ['PUT /fork', 201, { headers: fork, body: '["f"]' }],
    ['DELETE /source', 204],
    ['POST /fork', 204, { body: '["g"]' }],
    ['DELETE /fork', 204],
    ['PUT /source', 201, { body: '["again"]' }],
  ]
  const names = ['a', 'source', 'fork']
  const observe = async (streams: DurableStreams): Promise<string> => (await Promise.all(names.map((name) => seen(streams, name)))).join(' | ')
  // Without crashes, to know what each step leaves.
  const after: string[] = []
  const plain = await durableStreams({ directory: '/streams', fileSystem: new SimulatedFileSystem() })
  after.push(await observe(plain))
  for (const [what, , how] of steps) {
    await ask(plain, what, how)
    after.push(await observe(plain))
  }
  await plain.close()
  expect(after.at(-1)).toBe('["new"] closed | ["again"] | 404')

  const done = { count: 0 }
  await crash(
    async (streams) => {
      for (const [what, status, how] of steps) {
        expect((await ask(streams, what, how)).status, what).toBe(status)
        done.count += 1
      }
    },
    () => {
      // The step under way has taken effect, or not.
      const allowed = after.slice(done.count, done.count + 2)
      return async (streams) => {
        const found = await observe(streams)
        expect(allowed).toContain(found)
      }
    },
  )
})

test('messages and the number of their producer are durable together, however requests come together', async () => {
  const acknowledged = new Map<string, number>()
  const producers = ['p', 'q', 'r']
  const post = async (streams: DurableStreams, id: string, n: number): Promise<number> => {
    const headers = { 'producer-id': id, 'producer-epoch': '0', 'producer-seq': String(n) }
    return (await ask(streams, 'POST /log', { headers, body: JSON.stringify([id, n].map(String)) })).status
  }
  await crash(
    async (streams) => {
      await ask(streams, 'PUT /log')
      for (let n = 0; n < 4; n++) {
        await Promise.all(producers.map(async (id) => {
          expect(await post(streams, id, n)).toBe(200)
          acknowledged.set(id, n + 1)
        }))
      }
    },
    () => {
      const confirmed = new Map(acknowledged)
      return async (streams) => {
        const answer = await ask(streams, 'GET /log')
        if (answer.status === 404) {
          expect(confirmed.size).toBe(0)
          return
        }
        const found = (await answer.json()) as string[]
        for (const id of producers) {
          const own = found.flatMap((value, index) => (value === id ? [Number(found[index + 1])] : []))
          expect(own).toEqual(own.map((_, n) => n))
          expect(own.length).toBeGreaterThanOrEqual(confirmed.get(id) ?? 0)
          // The server knows of exactly these.
          if (own.length > 0) expect(await post(streams, id, own.length - 1)).toBe(204)
          expect(await post(streams, id, own.length + 1)).toBe(409)
          expect(await post(streams, id, own.length)).toBe(200)
        }
      }
    },
    // Of a write of several records, a disk may lose the middle: then the journal is refused.
    mild,
  )
})

test('the suite opens enough states', () => {
  expect(judged).toBeGreaterThan(scaled(500, 1500))
})
