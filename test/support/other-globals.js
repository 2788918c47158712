/**
 * Uses the built package with globals that are not Node's own: system errors are not instances of
 * `Error`, signals are of a class that Node rejects, and timers are numbers. Prints the results.
 */
import { join } from 'node:path'
import { runInNewContext } from 'node:vm'

class Event {
  constructor(type) {
    this.type = type
  }
  preventDefault() {}
}

class EventTarget {
  listeners = new Map()
  addEventListener(type, listener, options) {
    this.listeners.set(listener, options)
  }
  removeEventListener(type, listener) {
    this.listeners.delete(listener)
  }
  dispatchEvent(event) {
    for (const [listener, options] of this.listeners) {
      if (options?.once) this.listeners.delete(listener)
      listener(event)
    }
  }
}

class AbortSignal extends EventTarget {
  aborted = false
  reason = undefined
}

class AbortController {
  signal = new AbortSignal()
  abort(reason = new Error('aborted')) {
    if (this.signal.aborted) return
    this.signal.aborted = true
    this.signal.reason = reason
    this.signal.dispatchEvent(new Event('abort'))
  }
}

const timers = new Map()
const { setTimeout: start, clearTimeout: stop } = globalThis
Object.assign(globalThis, runInNewContext('({ Error, TypeError, RangeError, SyntaxError })'), {
  Event,
  EventTarget,
  AbortSignal,
  AbortController,
  setTimeout: (callback, ms) => {
    timers.set(timers.size + 1, start(callback, ms))
    return timers.size
  },
  clearTimeout: (id) => stop(timers.get(id)),
})

const { MiniStore } = await import('../../dist/index.js')
const { StateManager } = await import('../../dist/ministate/index.js')
const { MiniQueue } = await import('../../dist/miniqueue/index.js')

const thrownBy = async (failing) => {
  try {
    return await failing
  } catch (error) {
    return error
  }
}

const [, , directory] = process.argv
const path = join(directory, 'new', 'journal.jsonl')
let store = await MiniStore.open(path)
await store.append('a')
await store.rotate()
await store.append('b')
await store.close()
store = await MiniStore.open(path)
const records = await store.replay()

const follow = async (stream, wanted) => {
  const seen = []
  for await (const record of stream) {
    seen.push(record)
    if (seen.length === wanted) break
  }
  return seen
}
const following = Promise.all([store.stream({ follow: true }), MiniStore.stream(path, { follow: true })].map((all) => follow(all, 3)))
await store.append('c')
const [followed, followedByPath] = await following

const controller = new AbortController()
const waiting = MiniStore.stream(path, { from: 4, follow: true, signal: controller.signal }).getReader().read()
controller.abort('enough')
const reason = await thrownBy(waiting)
await store.close()
const notFound = (await thrownBy(store.append('d'))).code

const manager = await StateManager.open(join(directory, 'state'), { initialState: () => 0, mutator: (sum, by) => sum + Number(by) })
await manager.apply(1)
await manager.compact()
await manager.apply(1)
const { state } = manager
await manager.close()

const queue = await MiniQueue.open(join(directory, 'queue'), { backoff: () => 20 })
await queue.enqueue('job')
const attempts = []
const end = new AbortController()
await queue.process(
  (_, { attempt }) => {
    attempts.push(attempt)
    if (attempt === 1) throw new Error('once more')
    end.abort()
  },
  { signal: end.signal },
)
await queue.close()
console.log(JSON.stringify({ records, followed, followedByPath, reason, state, attempts, notFound }))
