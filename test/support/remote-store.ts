import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'

import { onTestFinished } from 'vitest'

import { type Deferred, deferred } from './deferred.ts'

const script = fileURLToPath(new URL('remote-store.js', import.meta.url))

/** The answer to a command. */
interface Answer {
  readonly id: number
  readonly result?: unknown
  readonly error?: { readonly message: string; readonly code?: string }
}

/**
 * A `MiniStore` in another process or thread, controlled from this one. Each call is answered when
 * it is done there, so tests need no timers to wait. It ends with the test.
 */
export class RemoteStore {
  readonly #post: (message: object) => void
  readonly #stop: () => Promise<void>
  readonly #pending = new Map<number, Deferred<unknown>>()
  #calls = 0
  #hasEnded = false

  private constructor(
    events: ChildProcess | Worker,
    actions: { readonly post: (message: object) => void; readonly stop: () => Promise<void> },
  ) {
    this.#post = actions.post
    this.#stop = actions.stop
    events.on('message', (answer: Answer) => this.#settle(answer))
    events.on('exit', () => this.#end())
    onTestFinished(() => this.kill())
  }

  static inProcess(): RemoteStore {
    const child = fork(script, {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      execArgv: [],
      // Preserves `undefined` and bytes.
      serialization: 'advanced',
    })
    return new RemoteStore(child, {
      post: (message) => void child.send(message),
      stop: async () => {
        const hasExited = once(child, 'exit')
        child.kill('SIGKILL')
        await hasExited
      },
    })
  }

  static inThread(): RemoteStore {
    const worker = new Worker(script, { execArgv: [] })
    return new RemoteStore(worker, {
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker is no window
      post: (message) => worker.postMessage(message),
      stop: async () => {
        await worker.terminate()
      },
    })
  }

  open(
    path: string,
    options?: object,
  ): Promise<{ firstSequence: number; lastSequence: number; recovery: unknown }> {
    return this.#call('open', path, options)
  }

  append(record: unknown): Promise<number> {
    return this.#call('append', record)
  }

  appendAll(records: readonly unknown[]): Promise<{ first: number; last: number }> {
    return this.#call('appendAll', records)
  }

  async rotate(): Promise<void> {
    await this.#call('rotate')
  }

  async truncateBefore(sequence: number): Promise<void> {
    await this.#call('truncateBefore', sequence)
  }

  async close(): Promise<void> {
    await this.#call('close')
  }

  /** Opens a view whose state is the list of all records. */
  openView(path: string, snapshots?: object): Promise<number> {
    return this.#call('openView', path, snapshots)
  }

  /** Resolves with the view once it has caught up. */
  viewed(): Promise<{ sequence: number; state: unknown[] }> {
    return this.#call('viewed')
  }

  replay(path: string): Promise<unknown[]> {
    return this.#call('replay', path)
  }

  /**
   * Writes bytes without the writer's knowledge and kills its process at once, like a crash during
   * a write.
   */
  async tear(bytes: string | Uint8Array): Promise<void> {
    const died = this.#call('tear', bytes)
    await died.catch(() => {})
    await this.kill()
  }

  /** Sends SIGKILL to a process, or terminates a thread. Resolves when it is gone. */
  async kill(): Promise<void> {
    if (this.#hasEnded) return
    await this.#stop()
  }

  #call<T>(name: string, ...parameters: unknown[]): Promise<T> {
    const id = ++this.#calls
    const answer = deferred<unknown>()
    if (this.#hasEnded) {
      answer.reject(new Error(`It ended before ${name}`))
    } else {
      this.#pending.set(id, answer)
      this.#post({ id, name, parameters })
    }
    return answer.promise as Promise<T>
  }

  #settle({ id, result, error }: Answer): void {
    const answer = this.#pending.get(id)
    this.#pending.delete(id)
    if (error === undefined) answer?.resolve(result)
    else answer?.reject(Object.assign(new Error(error.message), { code: error.code }))
  }

  #end(): void {
    this.#hasEnded = true
    for (const answer of this.#pending.values()) answer.reject(new Error('It ended before it answered'))
    this.#pending.clear()
  }
}
