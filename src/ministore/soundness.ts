import { isMiniStoreError, messageOf, MiniStoreError, type MiniStoreErrorCode } from '../errors.ts'
import { poisonChannel } from './channels.ts'

/** Whether a store may still write: until a failure leaves the state on disk unknown, and never again after it. */
export class Soundness {
  readonly #path: string
  #poison: MiniStoreError | undefined

  constructor(path: string) {
    this.#path = path
  }

  get isSound(): boolean {
    return this.#poison === undefined
  }

  /** @throws {MiniStoreError} `ERR_MINISTORE_POISONED` once it is lost, or `…_MOVED`, where that was the reason. */
  assert(): void {
    if (this.#poison === undefined) return
    throw this.#error(this.#poison.code, `Only close() works: ${this.#poison.message}`, this.#poison)
  }

  /** Ends it. @param doing what failed, as in "could not …" */
  poison(doing: string, cause: unknown): void {
    const isMoved = isMiniStoreError(cause, 'ERR_MINISTORE_MOVED')
    const why = isMoved ? '' : ', and what is on the disk is unknown until it is opened anew'
    const code = isMoved ? 'ERR_MINISTORE_MOVED' : 'ERR_MINISTORE_POISONED'
    this.#poison = this.#error(code, `could not ${doing} (${messageOf(cause)})${why}`, cause)
    poisonChannel.publish({ path: this.#path, error: this.#poison })
  }

  #error(code: MiniStoreErrorCode, message: string, cause: unknown): MiniStoreError {
    return new MiniStoreError(code, message, { path: this.#path, cause })
  }
}
