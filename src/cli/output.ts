import { hasCode, messageOf } from '../errors.ts'
import { settledOrAborted } from '../async.ts'

/** The members of a standard stream that an {@link Output} uses. */
export interface OutputStream {
  write(text: string | Uint8Array, done: (error?: Error | null) => void): boolean
  on(event: 'error', listener: (error: Error) => void): unknown
  readonly isTTY?: boolean
  readonly columns?: number
}

/** Text is passed on in pieces of about this many characters. */
const pieceLength = 64 * 1024

/**
 * The width used where the output is not a terminal, so that the text is the same on every machine.
 */
const defaultColumns = 80

/** Writing to a standard stream failed. */
export class OutputError extends Error {
  override readonly name = 'OutputError'

  constructor(cause: unknown) {
    super(`Could not print: ${messageOf(cause)}`, { cause })
  }
}

/**
 * Whether an output failed because its reader has closed the pipe, as in `| head -1`. This is not
 * an error to report.
 */
export function isClosedPipe(error: unknown): boolean {
  if (!(error instanceof OutputError)) return false
  return hasCode(error.cause, 'EPIPE', 'ERR_STREAM_DESTROYED')
}

/**
 * Buffers text for a standard stream. Text is passed on in large pieces, at the latest when the
 * event loop is idle, so that a reader that follows the output sees it soon.
 *
 * Once the stream has failed, added text is discarded, and `write` and `flush` reject.
 *
 * If the reader takes nothing, `write` and `flush` wait until the signal is aborted, then reject
 * with its reason. From then on they reject instead of waiting.
 */
export class Output {
  readonly #stream: OutputStream
  readonly #signal: AbortSignal | undefined
  #text = ''
  #scheduled: NodeJS.Immediate | undefined
  /** Writes for which the stream has not called back yet. */
  #pending = 0
  #failure: OutputError | undefined

  /** @param signal once it is aborted, no call waits for a reader. */
  constructor(stream: OutputStream, signal?: AbortSignal) {
    this.#stream = stream
    this.#signal = signal
    // The next `write` or `flush` reports the failure. Without a listener it would end the process.
    stream.on('error', (error) => this.#fail(error))
  }

  get isTerminal(): boolean {
    return this.#stream.isTTY === true
  }

  get columns(): number {
    return this.isTerminal ? (this.#stream.columns ?? defaultColumns) : defaultColumns
  }

  /**
   * Adds text whose delivery matters. Returns a promise if the caller must wait for the stream, so
   * that text does not pile up in memory. The promise rejects with an {@link OutputError} if
   * earlier text could not be written. Only `flush` reports whether the last text was written.
   */
  write(text: string): Promise<void> | undefined {
    if (this.#failure !== undefined) return Promise.reject(this.#failure)
    return this.#add(text) ? this.#out() : undefined
  }

  /**
   * Passes bytes on, behind all added text, and resolves when they are written. They must not change
   * before. Fails as `write` does.
   */
  async writeBytes(bytes: Uint8Array): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure
    this.#passOn()
    await this.#out(bytes)
  }

  /** Adds text whose delivery does not matter. Never throws and never requires waiting. */
  tell(text: string): void {
    if (this.#add(text)) this.#passOn()
  }

  /** Like `tell`, but passes the text on without buffering. */
  tellAtOnce(text: string): void {
    this.#add(text)
    this.#passOn()
  }

  /**
   * Resolves when all added text has left this process.
   *
   * @throws {OutputError} if some text could not be written. Rejects with the signal's reason if
   *   the signal is aborted and the stream does not take the text at once.
   */
  async flush(): Promise<void> {
    await this.#out()
    if (this.#failure !== undefined) throw this.#failure
  }

  /** Adds text. Returns whether the buffer should be passed on now. */
  #add(text: string): boolean {
    this.#text += text
    if (this.#text.length >= pieceLength) return true
    this.#scheduled ??= setImmediate(() => this.#passOn())
    return false
  }

  /** Resolves when all added text, or the bytes behind it, are written or have failed. */
  async #out(bytes?: Uint8Array): Promise<void> {
    const out = new Promise<void>((resolve) => (bytes === undefined ? this.#passOn(resolve) : this.#send(bytes, resolve)))
    if (this.#signal === undefined) return out
    // If the system takes a write at once, the stream calls back in the same turn of the event
    // loop.
    if (this.#signal.aborted) return Promise.race([out, rejectedAfterTurn(this.#signal.reason)])
    return settledOrAborted(out, this.#signal)
  }

  #passOn(done: () => void = () => {}): void {
    clearImmediate(this.#scheduled)
    this.#scheduled = undefined
    const text = this.#text
    this.#text = ''
    // Even an empty write can fail, as on a full device, so it is left out if nothing is pending.
    if (text === '' && this.#pending === 0) return done()
    this.#send(text, done)
  }

  #send(piece: string | Uint8Array, done: () => void): void {
    if (this.#failure !== undefined) return done()
    const settle = (error?: unknown): void => {
      this.#pending--
      if (error) this.#fail(error)
      done()
    }
    this.#pending++
    try {
      // The callback of an empty write comes after those of earlier writes.
      this.#stream.write(piece, settle)
    } catch (error) {
      settle(error)
    }
  }

  #fail(error: unknown): void {
    this.#failure ??= new OutputError(error)
  }
}

/** Rejects after one turn of the event loop. */
function rejectedAfterTurn(reason: unknown): Promise<never> {
  return new Promise((_resolve, reject) => setImmediate(() => reject(reason)))
}
