/** A promise and the function that resolves it. */
export interface Deferred<Value> {
  readonly promise: Promise<Value>
  readonly resolve: (value: Value) => void
}

/** A replacement for `Promise.withResolvers`, which Node 20 lacks. It has no `reject`. */
export function deferred<Value = void>(): Deferred<Value> {
  let resolve: ((value: Value) => void) | undefined
  const promise = new Promise<Value>((settle) => {
    resolve = settle
  })
  return { promise, resolve: resolve as unknown as (value: Value) => void }
}
