import { setMaxListeners } from 'node:events'
import type { UnderlyingSource } from 'node:stream/web'

import type { Delivery } from './delivery.ts'
import type { Lease } from './leases.ts'
import type { Message } from './message.ts'

/**
 * Messages as a stream: a ReadableStream, which pipes, and an async iterable. It fetches when it is read and
 * never ahead of that, but for the messages that came with the same fsync.
 */
export type MessageStream<T = unknown> = ReadableStream<Message<T>>

/** A stream that ends when the queue closes, and with the signal's reason when that is aborted. */
export function messageStream<T>(
  delivery: Delivery<T>,
  { prefetch, signal }: { readonly prefetch: number; readonly signal: AbortSignal | undefined },
): MessageStream<T> {
  return new ReadableStream(new MessageSource(delivery, prefetch, signal), { highWaterMark: 0 })
}

class MessageSource<T> implements UnderlyingSource<Message<T>> {
  readonly #delivery: Delivery<T>
  readonly #prefetch: number
  readonly #signal: AbortSignal | undefined
  readonly #stop = new AbortController()
  /** What was fetched and not asked for yet. */
  #fetched: Lease[] = []
  #controller: ReadableStreamDefaultController<Message<T>> | undefined

  constructor(delivery: Delivery<T>, prefetch: number, signal: AbortSignal | undefined) {
    this.#delivery = delivery
    this.#prefetch = prefetch
    this.#signal = signal
  }

  start(controller: ReadableStreamDefaultController<Message<T>>): void {
    this.#controller = controller
    if (this.#signal === undefined) return
    // Many streams on one signal are no leak: each lets go of it when it ends.
    setMaxListeners(0, this.#signal)
    this.#signal.addEventListener('abort', this.#onAbort, { once: true })
    if (this.#signal.aborted) this.#onAbort()
  }

  async pull(controller: ReadableStreamDefaultController<Message<T>>): Promise<void> {
    for (;;) {
      const lease = this.#next()
      if (lease !== undefined) return controller.enqueue(this.#delivery.handOut(lease))
      const leases = await this.#fetch()
      if (this.#stop.signal.aborted) return this.#delivery.giveBack(leases)
      this.#fetched = leases
      if (leases.length > 0) continue
      this.#end()
      return controller.close()
    }
  }

  cancel(reason: unknown): void {
    this.#end(reason)
  }

  /** The next one whose lease has not ended while it lay here. */
  #next(): Lease | undefined {
    if (!this.#delivery.isOpen) this.#giveBack()
    let lease = this.#fetched.shift()
    while (lease !== undefined && lease.phase !== 'held') lease = this.#fetched.shift()
    return lease
  }

  async #fetch(): Promise<Lease[]> {
    try {
      return await this.#delivery.receive({
        max: () => this.#prefetch,
        waitMs: Number.POSITIVE_INFINITY,
        signal: this.#stop.signal,
        isHanded: false,
      })
    } catch (error) {
      if (this.#stop.signal.aborted) return []
      this.#end(error)
      throw error
    }
  }

  readonly #onAbort = (): void => {
    const reason: unknown = this.#signal?.reason
    this.#end(reason)
    this.#controller?.error(reason)
  }

  #end(reason?: unknown): void {
    this.#signal?.removeEventListener('abort', this.#onAbort)
    this.#stop.abort(reason)
    this.#giveBack()
  }

  #giveBack(): void {
    const leases = this.#fetched
    this.#fetched = []
    this.#delivery.giveBack(leases)
  }
}
