/** What a promise gives, or a rejection with the signal's reason as soon as it is aborted. */
export function settledOrAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason)
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
    // After an abort too: what it rejects with must not count as unhandled.
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}
