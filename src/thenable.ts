import { isObject } from './options.ts'

/** Whether `await` would wait for it. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return (isObject(value) || typeof value === 'function') && typeof Reflect.get(value, 'then') === 'function'
}

/** To be called of a promise that is refused whatever becomes of it: a rejection of its own would end the process besides. */
export function ignoreOutcome(refused: PromiseLike<unknown>): void {
  Promise.resolve(refused).catch(() => {})
}
