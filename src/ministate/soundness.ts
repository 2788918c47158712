import { isMiniStoreError, MiniStoreError } from '../errors.ts'

/** Whether a manager may go on: until it cannot know any more that memory and journal say the same. */
export class StateSoundness {
  #failure: MiniStoreError | undefined
  #isStateLost = false

  /** @throws {MiniStoreError} `ERR_MINISTORE_POISONED` once it is lost. */
  assert(): void {
    if (this.#failure === undefined) return
    const message = `Only close() works: ${this.#failure.message}`
    const { sequence, path } = this.#failure
    throw new MiniStoreError('ERR_MINISTORE_POISONED', message, { sequence, path, cause: this.#failure })
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
      const isUnknown = isMiniStoreError(error, 'ERR_MINISTORE_OUTCOME_UNKNOWN', 'ERR_MINISTORE_POISONED')
      throw isUnknown ? this.poison(error) : error
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
