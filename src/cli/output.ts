import { messageOf } from '../errors.ts'
import { systemErrorCode } from '../fs/file-system.ts'
import { settledOrAborted } from '../async.ts'

/** What a standard stream of a process offers, as far as it is used. */
export interface OutputStream {
  write(text: string, done: (error?: Error | null) => void): boolean
  on(event: 'error', listener: (error: Error) => void): unknown
  readonly isTTY?: boolean
  readonly columns?: number
}

/** Text is passed on in pieces of about this length. */
const pieceLength = 64 * 1024

/** Columns of what is no terminal: the same everywhere, whatever the machine. */
const defaultColumns = 80

/** A standard stream took no more. */
export class OutputError extends Error {
  override readonly name = 'OutputError'

  constructor(cause: unknown) {
    super(`Could not print: ${messageOf(cause)}`, { cause })
  }
}

/** Whether an output failed because nobody reads it any more, as behind `| head -1`: no reason to complain. */
export function isClosedPipe(error: unknown): boolean {
  if (!(error instanceof OutputError)) return false
  return ['EPIPE', 'ERR_STREAM_DESTROYED'].includes(systemErrorCode(error.cause) ?? '')
}

/**
 * Text on its way to a standard stream. It is collected, passed on in large pieces, and at the latest when
 * the process has nothing else to do, so that a follower sees what has come.
 *
 * A stream that has failed stays so: what is added then goes nowhere, and `write` and `flush` say so. A stream
 * whose reader takes nothing is waited for until the signal is aborted: whoever waits then gets its reason, and
 * from then on whoever would have to.
 */
export class Output {
  readonly #stream: OutputStream
  readonly #signal: AbortSignal | undefined
  #text = ''
  #scheduled: NodeJS.Immediate | undefined
  /** Writes that the stream has not called back of. */
  #pending = 0
  #failure: OutputError | undefined

  /** @param signal when it is aborted, no reader is waited for any more. */
  constructor(stream: OutputStream, signal?: AbortSignal) {
    this.#stream = stream
    this.#signal = signal
    // Whoever writes next is told of it; unheard it would end the process.
    stream.on('error', (error) => this.#fail(error))
  }

  get isTerminal(): boolean {
    return this.#stream.isTTY === true
  }

  get columns(): number {
    return this.isTerminal ? (this.#stream.columns ?? defaultColumns) : defaultColumns
  }

  /**
   * Adds text that somebody is meant to read. A promise when the stream must be waited for, so that what it
   * cannot take does not pile up; it rejects with an {@link OutputError} when an earlier text did not get out.
   * Whether the last one did says `flush`.
   */
  write(text: string): Promise<void> | undefined {
    if (this.#failure !== undefined) return Promise.reject(this.#failure)
    return this.#add(text) ? this.#out() : undefined
  }

  /** Adds text that changes nothing, heard or not: never throws, and there is nothing to wait for. */
  tell(text: string): void {
    if (this.#add(text)) this.#passOn()
  }

  /** The same, not kept until there is more of it. */
  tellAtOnce(text: string): void {
    this.#add(text)
    this.#passOn()
  }

  /**
   * Resolves when all that was written is out of this process.
   *
   * @throws {OutputError} when some of it never will be; the signal's reason when it is aborted and there is
   * something that the stream does not take at once.
   */
  async flush(): Promise<void> {
    await this.#out()
    if (this.#failure !== undefined) throw this.#failure
  }

  /** Whether it is time to pass on what there is. */
  #add(text: string): boolean {
    this.#text += text
    if (this.#text.length >= pieceLength) return true
    this.#scheduled ??= setImmediate(() => this.#passOn())
    return false
  }

  /** Resolves when all that was added is out, or never will be. */
  async #out(): Promise<void> {
    const out = new Promise<void>((resolve) => this.#passOn(resolve))
    if (this.#signal === undefined) return out
    // A write that the system takes at once is called back in the same turn of the event loop.
    if (this.#signal.aborted) return Promise.race([out, rejectedAfterTurn(this.#signal.reason)])
    return settledOrAborted(out, this.#signal)
  }

  #passOn(done: () => void = () => {}): void {
    clearImmediate(this.#scheduled)
    this.#scheduled = undefined
    const text = this.#text
    this.#text = ''
    // To write nothing may fail too, as on a full device.
    if (this.#failure !== undefined || (text === '' && this.#pending === 0)) return done()
    const settle = (error?: unknown): void => {
      this.#pending--
      if (error) this.#fail(error)
      done()
    }
    this.#pending++
    try {
      // An empty write is called back when those before it are out.
      this.#stream.write(text, settle)
    } catch (error) {
      settle(error)
    }
  }

  #fail(error: unknown): void {
    this.#failure ??= new OutputError(error)
  }
}

/** Rejects when the event loop has come round. */
function rejectedAfterTurn(reason: unknown): Promise<never> {
  return new Promise((_resolve, reject) => setImmediate(() => reject(reason)))
}
