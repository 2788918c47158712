import { isMiniStoreError, MiniStoreError } from '../errors.ts'

/** Whether a manager may go on: until it cannot know any more that memory and journal say the same. */
export class StateSoundness {
  #failure: MiniStoreError | undefined
  #isStateLost = false

  /** @throws {MiniStoreError} `ERR_MINISTORE_POISONED` once it is lost, or `…_MOVED`, where that was the reason. */
  assert(): void {
    if (this.#failure === undefined) return
    const message = `Only close() works: ${this.#failure.message}`
    const { sequence, path } = this.#failure
    const code = this.#failure.code === 'ERR_MINISTORE_MOVED' ? this.#failure.code : 'ERR_MINISTORE_POISONED'
    throw new MiniStoreError(code, message, { sequence, path, cause: this.#failure })
  }

  /** @throws {MiniStoreError} `ERR_MINISTORE_POISONED` when the state in memory may be half changed. */
  assertState(): void {
    if (this.#isStateLost) this.assert()
  }

  /** Waits for a call of the journal, and ends it when that leaves unknown what the journal holds. */
  async guard<T>(call: Promise<T>): Promise<T> {
    try {
      return await call
    } catch (error) {
      throw isMiniStoreError(error, ...codes) ? this.poison(error) : error
    }
  }

  /** Ends it; the state in memory stays what was acknowledged. Gives the error back. */
  poison(error: MiniStoreError): MiniStoreError {
    this.#failure ??= error
    return error
  }

  /** Ends it, the state in memory too. */
  loseState(error: MiniStoreError): MiniStoreError {
    this.#isStateLost = true
    return this.poison(error)
  }
}

const codes = ['ERR_MINISTORE_OUTCOME_UNKNOWN', 'ERR_MINISTORE_POISONED', 'ERR_MINISTORE_MOVED'] as const
