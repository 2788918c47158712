import type { StandardSchemaV1 } from '@standard-schema/spec'
import { describe, expect, test, vi } from 'vitest'

import { messageOf } from '../src/errors.ts'
import { type Codec, MiniStore, MiniStoreError } from '../src/index.ts'
import { SnapStore } from '../src/minisnap/index.ts'
import { type FileSystem, SimulatedFileSystem } from '../src/testing/index.ts'
import { openQueue } from './miniqueue/support.ts'
import { openSums } from './ministate/support.ts'

/** Thrown values of every kind, and how messages show them. */
const things: ReadonlyArray<{ readonly what: string; readonly thrown: unknown; readonly shown: RegExp }> = [
  { what: 'an error', thrown: new Error('plain'), shown: /plain/ },
  { what: 'an error whose message is an object', thrown: withMessage({ a: 1 }), shown: /a: 1/ },
  { what: 'an error whose message is null', thrown: withMessage(null), shown: /Error/ },
  { what: 'an error with a getter that throws', thrown: throwing(new Error('hidden'), 'message'), shown: /Error|shown/ },
  { what: 'an error with nothing but getters that throw', thrown: throwing(new Error('x'), 'stack', 'message', 'name', 'code', 'cause'), shown: /Error|shown/ },
  { what: 'an object with a message', thrown: { message: 'spoken' }, shown: /spoken/ },
  { what: 'an object', thrown: { some: { deep: ['thing'] } }, shown: /some: \{ deep: \[Array\] \}/ },
  { what: 'an object without a prototype', thrown: Object.assign(Object.create(null) as object, { b: 2 }), shown: /b: 2/ },
  { what: 'an object that cannot become a text', thrown: { toString: () => thrower() }, shown: /toString/ },
  { what: 'an object that inspects itself', thrown: { [Symbol.for('nodejs.util.inspect.custom')]: thrower }, shown: /inspect/ },
  { what: 'a Proxy of an error', thrown: new Proxy(new Error('behind'), {}), shown: /behind/ },
  { what: 'a Proxy that throws', thrown: new Proxy({}, { get: thrower, has: thrower, getPrototypeOf: thrower }), shown: /\{\}|shown/ },
  { what: 'a revoked Proxy', thrown: revoked(), shown: /Revoked Proxy/ },
  { what: 'null', thrown: null, shown: /null/ },
  { what: 'undefined', thrown: undefined, shown: /undefined/ },
  { what: 'a text', thrown: 'just a text', shown: /just a text/ },
  { what: 'a symbol', thrown: Symbol('sym'), shown: /Symbol\(sym\)/ },
  { what: 'a bigint', thrown: 12n, shown: /12n/ },
  { what: 'a function', thrown: function named() {}, shown: /named/ },
  { what: 'much', thrown: Array.from({ length: 5000 }, (_, n) => `entry ${n}`), shown: /entry 0.*…/ },
]

function withMessage(message: unknown): Error {
  return Object.defineProperty(new Error('replaced'), 'message', { value: message })
}

function thrower(): never {
  throw new Error('thrown by a trap')
}

function throwing(error: Error, ...names: string[]): Error {
  for (const name of names) Object.defineProperty(error, name, { get: thrower })
  return error
}

function revoked(): object {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  return proxy
}

/**
 * Resolves with the reason of a rejection. The reason is wrapped in an object because `expect` and
 * `await` inspect the values they are given.
 */
async function rejectionOf(call: Promise<unknown>): Promise<{ readonly reason: unknown }> {
  return call.then(
    () => expect.unreachable('it was expected to reject'),
    (reason: unknown) => ({ reason }),
  )
}

/** `rejects.toBe` for values that `expect` cannot print. */
async function rejectsWith(call: Promise<unknown>, thrown: unknown): Promise<void> {
  expect(Object.is((await rejectionOf(call)).reason, thrown)).toBe(true)
}

/** A file system where a method of this name, its own or of its files, rejects with this value. */
function failing(target: object, method: string, reject: () => { readonly thrown: unknown } | undefined): FileSystem {
  return new Proxy(target, {
    get(files, name) {
      const value: unknown = Reflect.get(files, name, files)
      if (typeof value !== 'function') return value
      return (...given: unknown[]): unknown => {
        const rejection = name === method ? reject() : undefined
        if (rejection !== undefined) return Promise.reject(rejection.thrown)
        const answer: unknown = Reflect.apply(value, files, given.map((one) => originals.get(one as object) ?? one))
        if (name !== 'open') return answer
        return (answer as Promise<object>).then((file) => {
          const wrapped = failing(file, method, reject)
          originals.set(wrapped, file)
          return wrapped
        })
      }
    },
  }) as FileSystem
}

const originals = new WeakMap<object, object>()

describe.each(things)('when $what is thrown', ({ thrown, shown }) => {
  const raise = (): never => {
    throw thrown
  }

  async function expectWrapped(failed: Promise<unknown>, code: string): Promise<void> {
    const { reason } = await rejectionOf(failed)
    expect(reason).toBeInstanceOf(MiniStoreError)
    const error = reason as MiniStoreError
    expect(error.code).toBe(code)
    expect(Object.is(error.cause, thrown)).toBe(true)
    expect(error.message).toMatch(shown)
    expect(error.message).not.toMatch(/\n|\[object Object\]/)
    expect(error.message.length).toBeLessThan(400)
    expect(JSON.stringify(error)).toContain(code)
  }

  test('its message is one line of bounded length', () => {
    expect(messageOf(thrown)).toMatch(shown)
    expect(messageOf(thrown)).not.toContain('\n')
    expect(messageOf(thrown).length).toBeLessThan(300)
  })

  test('by toJSON, a codec or a schema, append rejects and nothing is written', async () => {
    const fileSystem = new SimulatedFileSystem()
    await using store = await MiniStore.open('/json.jsonl', { fileSystem })
    await expectWrapped(store.append({ toJSON: raise }), 'ERR_MINISTORE_NOT_SERIALIZABLE')
    const codec: Codec = { encode: raise, decode: raise }
    await using coded = await MiniStore.open('/codec.jsonl', { fileSystem, codec })
    await expectWrapped(coded.append('a'), 'ERR_MINISTORE_CODEC')
    for (const [n, validate] of [raise, () => Promise.reject(thrown)].entries()) {
      const schema: StandardSchemaV1 = { '~standard': { version: 1, vendor: 'test', validate } }
      await using checked = await MiniStore.open(`/schema-${n}.jsonl`, { fileSystem, schema })
      await expectWrapped(checked.append('a'), 'ERR_MINISTORE_SCHEMA')
      expect(checked.lastSequence).toBe(0)
    }
    expect([store.lastSequence, coded.lastSequence]).toEqual([0, 0])
  })

  test('by a codec, a schema or salvage, a replay ends with it', async () => {
    const fileSystem = new SimulatedFileSystem()
    const store = await MiniStore.open('/journal.jsonl', { fileSystem })
    await store.append('a')
    await store.close()
    await expectWrapped(MiniStore.replay('/journal.jsonl', { fileSystem, codec: { decode: raise } }), 'ERR_MINISTORE_CODEC')
    const schema: StandardSchemaV1 = { '~standard': { version: 1, vendor: 'test', validate: raise } }
    await expectWrapped(MiniStore.replay('/journal.jsonl', { fileSystem, schema }), 'ERR_MINISTORE_SCHEMA')
    for (const salvage of [raise, (() => Promise.reject(thrown)) as () => never]) {
      const replay = MiniStore.replay('/journal.jsonl', { fileSystem, schema, salvage })
      await rejectsWith(replay, thrown)
    }
  })

  test('by a file system, the call rejects and the journal stays as it is', async () => {
    const files = new SimulatedFileSystem()
    let isFailing = false
    const rejects = (): { thrown: unknown } | undefined => (isFailing ? { thrown } : undefined)
    for (const method of ['open', 'list', 'stat', 'read', 'sync']) {
      isFailing = true
      await expectWrapped(MiniStore.open('/journal.jsonl', { fileSystem: failing(files, method, rejects) }), 'ERR_MINISTORE_IO')
      isFailing = false
      await (await MiniStore.open('/journal.jsonl', { fileSystem: files })).close()
    }
    const store = await MiniStore.open('/journal.jsonl', { fileSystem: failing(files, 'write', rejects) })
    isFailing = true
    await expectWrapped(store.append('a'), 'ERR_MINISTORE_IO')
    isFailing = false
    expect(await store.append('a')).toBe(1)
    await store.close()
    const poisoned = await MiniStore.open('/journal.jsonl', { fileSystem: failing(files, 'dataSync', rejects) })
    isFailing = true
    await expectWrapped(poisoned.append('b'), 'ERR_MINISTORE_OUTCOME_UNKNOWN')
    const { reason } = await rejectionOf(poisoned.append('c'))
    expect(reason).toMatchObject({ code: 'ERR_MINISTORE_POISONED', message: shown })
    await poisoned.close()
  })

  test('by validate or the initial state, the call rejects with it; by the mutator, it is the cause', async () => {
    await rejectsWith(openSums({ initialState: raise }), thrown)
    for (const validate of [raise, () => Promise.reject(thrown)]) {
      const { manager } = await openSums({ validate })
      await rejectsWith(manager.apply({ by: 1 }), thrown)
      expect(manager.sequence).toBe(0)
      await manager.close()
    }
    const { manager } = await openSums({ mutator: raise })
    await expectWrapped(manager.apply({ by: 1 }), 'ERR_MINISTORE_MUTATOR')
    await manager.close()
  })

  test('by a codec of snapshots, onError receives it, and an error thrown by onError is harmless', async () => {
    const warn = vi.spyOn(process, 'emitWarning').mockReturnValue()
    for (const after of [() => {}, raise, () => Promise.reject(thrown)]) {
      const told: unknown[] = []
      const onError = (error: unknown): unknown => {
        told.push(error)
        return after()
      }
      const { manager } = await openSums({
        snapshots: { everyMutations: 1, codec: { encode: raise, decode: raise }, onError },
      })
      expect(await manager.apply({ by: 1 })).toBe(1)
      await expectWrapped(Promise.reject(told[0]), 'ERR_MINISTORE_CODEC')
      await manager.close()
    }
    // A warning that Node cannot display would end the process.
    expect(warn).toHaveBeenCalledTimes(2)
    for (const [warning] of warn.mock.calls) {
      const text: unknown = typeof warning === 'string' ? warning : warning.stack
      expect(text).toMatch(shown)
    }
    warn.mockRestore()
    const snapshots = new SnapStore<unknown>('/s', { fileSystem: new SimulatedFileSystem(), codec: { encode: () => '{}', decode: raise } })
    await snapshots.create({}, 1)
    await expectWrapped(snapshots.restore(), 'ERR_MINISTORE_CODEC')
  })

  test('by a handler, its message is nacked, and becomes a dead letter with it as the reason', async () => {
    for (const handler of [raise, () => Promise.reject(thrown)]) {
      const stop = new AbortController()
      const { queue, told } = await openQueue({ maxAttempts: 2, backoff: () => 0 })
      await queue.enqueue('job')
      const handle = (_: string, { attempt }: { readonly attempt: number }): unknown => {
        if (attempt === 2) stop.abort()
        return handler()
      }
      await queue.process(handle, { signal: stop.signal })
      expect(queue.stats()).toMatchObject({ ready: 0, inFlight: 0, dead: 1 })
      expect(queue.deadLetters()[0]?.reason).toMatch(shown)
      expect(told).toEqual([])
      await queue.close()
    }
  })

  test('by backoff, a nack rejects with it, and in process onError receives it directly', async () => {
    const stop = new AbortController()
    const told: unknown[] = []
    const onError = (error: unknown): void => {
      told.push(error)
      stop.abort()
    }
    const { queue } = await openQueue({ backoff: raise, onError })
    await queue.enqueue('job')
    const [message] = await queue.receive()
    await rejectsWith(message?.nack() as Promise<void>, thrown)
    await message?.nack({ delayMs: 0 })
    await queue.process(() => Promise.reject(new Error('no')), { signal: stop.signal })
    expect(told).toHaveLength(1)
    expect(Object.is(told[0], thrown)).toBe(true)
    await queue.close()
  })

  test('as the reason of an abort, waits and streams end with it', async () => {
    await using store = await MiniStore.open('/journal.jsonl', { fileSystem: new SimulatedFileSystem() })
    const { queue } = await openQueue()
    const controller = new AbortController()
    const { signal } = controller
    const next = store.stream({ follow: true, signal })[Symbol.asyncIterator]().next()
    const received = queue.receive({ signal, waitMs: Number.POSITIVE_INFINITY })
    const consumed = queue.consume({ signal }).getReader().read()
    const processed = queue.process(() => {}, { signal })
    controller.abort(thrown)
    for (const ended of [next, received, consumed]) await rejectsWith(ended, signal.reason)
    await processed
    expect(queue.stats().inFlight).toBe(0)
    await queue.close()
  })
})
