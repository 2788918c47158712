/** A promise, and what resolves it. */
export interface Deferred<Value> {
  readonly promise: Promise<Value>
  readonly resolve: (value: Value) => void
}

/** What `Promise.withResolvers` gives, which Node 20 does not have. */
export function deferred<Value = void>(): Deferred<Value> {
  let resolve: ((value: Value) => void) | undefined
  const promise = new Promise<Value>((settle) => {
    resolve = settle
  })
  return { promise, resolve: resolve as unknown as (value: Value) => void }
}
