import { messageOf, MiniStoreError } from '../errors.ts'
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

  /** @throws {MiniStoreError} `ERR_MINISTORE_POISONED` once it is lost. */
  assert(): void {
    if (this.#poison === undefined) return
    throw this.#error(`Only close() works: ${this.#poison.message}`, this.#poison)
  }

  /** Ends it. @param doing what failed, as in "could not …" */
  poison(doing: string, cause: unknown): void {
    const message = `could not ${doing} (${messageOf(cause)}), and what is on the disk is unknown until it is opened anew`
    this.#poison = this.#error(message, cause)
    poisonChannel.publish({ path: this.#path, error: this.#poison })
  }

  #error(message: string, cause: unknown): MiniStoreError {
    return new MiniStoreError('ERR_MINISTORE_POISONED', message, { path: this.#path, cause })
  }
}
