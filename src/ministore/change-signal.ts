import { clearInterval, setInterval } from 'node:timers'

/** The longest time that a timer of Node's takes. */
const longestMs = 2 ** 31 - 1

/** Wakes those who wait for a change. While there are any the process stays alive. */
export class ChangeSignal {
  readonly #waiting = new Set<() => void>()
  #keepAlive: NodeJS.Timeout | undefined

  /** Resolves at the next change; rejects with the signal's reason when that is aborted first. */
  next(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiting.delete(onChange)
        this.#endIfIdle()
        reject(signal.reason)
      }
      const onChange = (): void => {
        signal.removeEventListener('abort', onAbort)
        resolve()
      }
      if (signal.aborted) return onAbort()
      signal.addEventListener('abort', onAbort, { once: true })
      this.#waiting.add(onChange)
      // A promise alone holds no process: it would end in the midst of the wait.
      this.#keepAlive ??= setInterval(() => {}, longestMs)
    })
  }

  wake(): void {
    for (const onChange of this.#waiting) onChange()
    this.#waiting.clear()
    this.#endIfIdle()
  }

  #endIfIdle(): void {
    if (this.#waiting.size > 0) return
    clearInterval(this.#keepAlive)
    this.#keepAlive = undefined
  }
}
