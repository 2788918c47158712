/** Waits for a promise, or rejects with the signal's reason as soon as it is aborted. */
export function settledOrAborted(promise: Promise<unknown>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason)
    if (signal.aborted) return onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(() => resolve(), reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}
