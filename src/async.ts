import { AsyncResource } from 'node:async_hooks'
import { setMaxListeners } from 'node:events'

import type PQueue from 'p-queue'

import { messageOf, type MiniStoreError, propertyOf } from './errors.ts'
import { isObject } from './options.ts'

/** Whether `await` would wait for it. Never throws: of what cannot be read, such as a revoked Proxy, `await` rejects. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  if (!isObject(value) && typeof value !== 'function') return false
  try {
    return typeof (value as { readonly then?: unknown }).then === 'function'
  } catch {
    return true
  }
}

/** To be called of a promise that is refused whatever becomes of it: a rejection of its own would end the process besides. */
export function ignoreOutcome(refused: PromiseLike<unknown>): void {
  Promise.resolve(refused).catch(() => {})
}

/**
 * Adds a task to a queue. It runs in the asynchronous context of this call, and with it every function of the caller's that
 * it calls: p-queue alone would run it in that of whichever task ended before it.
 */
export function addInContext<T>(queue: PQueue, task: () => Promise<T> | T): Promise<T> {
  const context = new AsyncResource('ministore')
  return queue.add(() => context.runInAsyncScope(task) as Promise<T>)
}

/**
 * Calls back when a signal is aborted; at once if it is already. Gives the function that lets go of the signal.
 *
 * The signal may be of another realm: it is only listened to, and never handed to a function of Node, which would refuse it.
 */
export function whenAborted(signal: AbortSignal, onAbort: () => void): () => void {
  if (signal.aborted) {
    onAbort()
    return () => {}
  }
  try {
    // Many waits on one signal are no leak: each lets go of it when it ends.
    setMaxListeners(0, signal)
  } catch {
    // One of another realm, whose listeners Node does not count.
  }
  signal.addEventListener('abort', onAbort, { once: true })
  return () => signal.removeEventListener('abort', onAbort)
}

/** @throws the signal's reason if it is aborted. Its own method of this name is missing in older simulated browsers. */
export function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw signal.reason
}

/** What a promise gives, or a rejection with the signal's reason as soon as it is aborted. */
export function settledOrAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const letGo = whenAborted(signal, () => reject(signal.reason))
    // After an abort too: what it rejects with must not count as unhandled.
    promise.then(resolve, reject).finally(letGo)
  })
}

/** Carries what a function of the caller's threw past our own handling of errors. */
export class FromCaller extends Error {
  constructor(cause: unknown) {
    super('A function of the caller threw', { cause })
  }
}

/** Tells the caller's function of damage. A promise only when the function gives one. */
export function tellDamage(
  salvage: (damage: MiniStoreError) => unknown,
  damage: MiniStoreError,
): void | Promise<void> {
  try {
    const told = salvage(damage)
    return isThenable(told) ? settled(told) : undefined
  } catch (error) {
    throw new FromCaller(error)
  }
}

async function settled(told: PromiseLike<unknown>): Promise<void> {
  try {
    await told
  } catch (error) {
    throw new FromCaller(error)
  }
}

/**
 * Tells a listener of an error that nobody waits for; without one it is a warning of the process. Never throws, whatever
 * the listener does: what it throws, now or later, is a warning too.
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
    // An error of another realm, which Node refuses.
    process.emitWarning(messageOf(error))
  }
}
