import { AsyncResource } from 'node:async_hooks'
import type { TracingChannel } from 'node:diagnostics_channel'
import { setMaxListeners } from 'node:events'
import { clearInterval, setImmediate, setInterval } from 'node:timers'

import type PQueue from 'p-queue'

import { messageOf, type MiniStoreError, propertyOf } from './errors.ts'
import { isObject } from './options.ts'

/**
 * Returns whether `await` would wait for a value. Never throws. If `then` cannot be read, as on a
 * revoked Proxy, the result is `true`, because `await` then rejects.
 */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  if (!isObject(value) && typeof value !== 'function') return false
  try {
    return typeof (value as { readonly then?: unknown }).then === 'function'
  } catch {
    return true
  }
}

/**
 * Ignores the outcome of a promise that the library refuses, or awaits only later. Otherwise a
 * rejection of that promise would be unhandled and would end the process.
 */
export function ignoreOutcome(promise: PromiseLike<unknown>): void {
  Promise.resolve(promise).catch(() => {})
}

/**
 * Returns whether a value is a promise where a plain value is expected. The outcome of such a
 * promise is ignored.
 */
export function isStrayPromise(value: unknown): value is PromiseLike<unknown> {
  if (!isThenable(value)) return false
  ignoreOutcome(value)
  return true
}

/**
 * Adds a task to a queue. The task, and every function of the caller that it calls, runs in the
 * asynchronous context of this call. p-queue alone would run it in the context of the task that
 * ended before it.
 */
export function addInContext<T>(queue: PQueue, task: () => Promise<T> | T): Promise<T> {
  const context = new AsyncResource('ministore')
  return queue.add(() => context.runInAsyncScope(task) as Promise<T>)
}

/**
 * Calls back when a signal is aborted, or at once if it already is. Returns a function that removes
 * the listener.
 *
 * The signal may come from another realm. Functions of Node refuse such a signal, so this function
 * relies only on the signal's own methods.
 */
export function whenAborted(signal: AbortSignal, onAbort: () => void): () => void {
  if (signal.aborted) {
    onAbort()
    return () => {}
  }
  try {
    // Many waits on one signal are not a leak: each wait removes its listener when it ends.
    setMaxListeners(0, signal)
  } catch {
    // The signal is from another realm. Node does not count its listeners.
  }
  signal.addEventListener('abort', onAbort, { once: true })
  return () => signal.removeEventListener('abort', onAbort)
}

/**
 * Throws the reason of a signal if the signal is aborted. Older simulated browsers lack the method
 * `AbortSignal.prototype.throwIfAborted`.
 */
export function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw signal.reason
}

/**
 * Settles as the promise does, or rejects with the signal's reason as soon as the signal is
 * aborted.
 */
export function settledOrAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const letGo = whenAborted(signal, () => reject(signal.reason))
    // Also observe the promise after an abort, so that its rejection does not count as unhandled.
    promise.then(resolve, reject).finally(letGo)
  })
}

/** Carries an error of a caller's function through the error handling of this library. */
export class CallbackError extends Error {
  constructor(cause: unknown) {
    super('A function of the caller threw', { cause })
  }
}

/**
 * Reports damage to a function of the caller. Returns a promise only if that function returns one.
 *
 * @throws {CallbackError} if the function throws. If its promise rejects, the returned promise rejects
 *   with a `CallbackError` too.
 */
export function tellDamage(
  salvage: (damage: MiniStoreError) => unknown,
  damage: MiniStoreError,
): void | Promise<void> {
  try {
    const told = salvage(damage)
    if (isThenable(told)) return Promise.resolve(told).then(() => {}, wrapped)
  } catch (error) {
    wrapped(error)
  }
}

function wrapped(error: unknown): never {
  throw new CallbackError(error)
}

/**
 * Reports a background error, for which no call waits, to a listener. Without a listener the error
 * becomes a process warning.
 *
 * Never throws: an error from the listener, now or later, becomes a warning too.
 */
export function tell(listener: ((error: unknown) => unknown) | undefined, error: unknown): void {
  if (listener === undefined) {
    warn(error)
    return
  }
  try {
    const told = listener(error)
    if (isThenable(told)) Promise.resolve(told).catch(warn)
  } catch (thrown) {
    warn(thrown)
  }
}

function warn(error: unknown): void {
  const isShowable = ['name', 'message', 'stack'].every((name) => typeof propertyOf(error, name) === 'string')
  try {
    process.emitWarning(isShowable ? (error as Error) : messageOf(error))
  } catch {
    // Node refuses errors from another realm.
    process.emitWarning(messageOf(error))
  }
}

/**
 * Runs a task on a tracing channel. Without subscribers it only calls the task.
 *
 * The result of the task becomes part of the message, so it must be a number or nothing. A
 * subscriber may log the message with `JSON.stringify`, and Node.js turns an error that a
 * subscriber throws into an uncaught exception. A value that `JSON.stringify` rejects could
 * therefore end the process.
 */
export function traced<T extends number | void, Context extends object>(
  tracing: TracingChannel<unknown, Context>,
  context: Context,
  task: () => Promise<T>,
): Promise<T> {
  // Bun does not tell of the channels together whether one has subscribers.
  const isTraced = (tracing.hasSubscribers as boolean | undefined) ?? hasSubscribers(tracing)
  return isTraced ? tracing.tracePromise(task, context) : task()
}

function hasSubscribers<Context extends object>(tracing: TracingChannel<unknown, Context>): boolean {
  const { start, end, asyncStart, asyncEnd, error } = tracing
  return [start, end, asyncStart, asyncEnd, error].some((one) => one.hasSubscribers)
}

/** The longest delay that a timer in Node.js accepts, in milliseconds. */
const longestMs = 2 ** 31 - 1

/** Wakes waiters when something changes. Pending waits keep the process alive. */
export class ChangeSignal {
  readonly #waiting = new Set<() => void>()
  #keepAlive: NodeJS.Timeout | undefined
  #isWaking = false
  readonly #readers = new WeakMap<AbortSignal, { readonly resolve: () => void; readonly reject: (reason: unknown) => void }>()

  /** Resolves at the next change. Rejects with the signal's reason if it is aborted first. */
  next(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.forget(onChange)
        reject(signal.reason)
      }
      const onChange = (): void => {
        signal.removeEventListener('abort', onAbort)
        resolve()
      }
      if (signal.aborted) return onAbort()
      signal.addEventListener('abort', onAbort, { once: true })
      this.once(onChange)
    })
  }

  /**
   * Like {@link next}, for a signal that belongs to one reader, which waits again and again. Its
   * listener stays on the signal, because to add and remove it would cost more than the rest of the
   * wait. Calls with one signal must not overlap.
   */
  nextFor(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason)
      if (!this.#readers.has(signal)) {
        const onAbort = (): void => {
          const wait = this.#readers.get(signal)
          if (wait === undefined || !this.#waiting.delete(wait.resolve)) return
          this.#endIfIdle()
          wait.reject(signal.reason)
        }
        signal.addEventListener('abort', onAbort, { once: true })
      }
      this.#readers.set(signal, { resolve, reject })
      this.once(resolve)
    })
  }

  /**
   * Wakes the waiters after everything that is ready has run. What the change lets somebody begin,
   * such as the next write to a disk, is then under way while the waiters run.
   */
  wakeSoon(): void {
    if (this.#waiting.size === 0 || this.#isWaking) return
    this.#isWaking = true
    setImmediate(() => this.wake())
  }

  wake(): void {
    this.#isWaking = false
    for (const onChange of this.#waiting) onChange()
    this.#waiting.clear()
    this.#endIfIdle()
  }

  /** Calls back once, at the next change. */
  once(onChange: () => void): void {
    this.#waiting.add(onChange)
    // A pending promise does not keep the process alive, but a timer does.
    this.#keepAlive ??= setInterval(() => {}, longestMs)
  }

  /** Takes back a call of {@link once}. */
  forget(onChange: () => void): void {
    this.#waiting.delete(onChange)
    this.#endIfIdle()
  }

  #endIfIdle(): void {
    if (this.#waiting.size > 0) return
    clearInterval(this.#keepAlive)
    this.#keepAlive = undefined
  }
}
