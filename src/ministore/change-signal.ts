/** Wakes those who wait for a change. */
export class ChangeSignal {
  readonly #waiting = new Set<() => void>()

  /** Resolves at the next change; rejects with the signal's reason when that is aborted first. */
  next(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiting.delete(onChange)
        reject(signal.reason)
      }
      const onChange = (): void => {
        signal.removeEventListener('abort', onAbort)
        resolve()
      }
      if (signal.aborted) return onAbort()
      signal.addEventListener('abort', onAbort, { once: true })
      this.#waiting.add(onChange)
    })
  }

  wake(): void {
    for (const onChange of this.#waiting) onChange()
    this.#waiting.clear()
  }
}
