import { systemErrorCode } from '../fs/file-system.ts'

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

/**
 * Text on its way to a standard stream. It is collected, passed on in large pieces, and at the latest when
 * the process has nothing else to do, so that a follower sees what has come.
 */
export class Output {
  readonly #stream: OutputStream
  #text = ''
  #scheduled: NodeJS.Immediate | undefined
  #failure: Error | undefined

  constructor(stream: OutputStream) {
    this.#stream = stream
    // Whoever writes next is told of it; unheard it would end the process.
    stream.on('error', (error) => (this.#failure ??= error))
  }

  get isTerminal(): boolean {
    return this.#stream.isTTY === true
  }

  get columns(): number {
    return this.isTerminal ? (this.#stream.columns ?? defaultColumns) : defaultColumns
  }

  /**
   * Adds text. A promise when the stream must be waited for, so that what it cannot take does not pile up.
   *
   * @throws the stream's error, see {@link isClosedPipe}.
   */
  write(text: string): Promise<void> | undefined {
    if (this.#failure !== undefined) throw this.#failure
    this.#text += text
    if (this.#text.length >= pieceLength) return this.flush()
    // A failure is kept for the next call.
    this.#scheduled ??= setImmediate(() => {
      this.flush().catch(() => {})
    })
    return undefined
  }

  /** Resolves when all that was written is out of this process. */
  async flush(): Promise<void> {
    clearImmediate(this.#scheduled)
    this.#scheduled = undefined
    if (this.#failure !== undefined) throw this.#failure
    const text = this.#text
    this.#text = ''
    await new Promise<void>((resolve, reject) => {
      // An empty write is called back when those before it are out.
      this.#stream.write(text, (error) => {
        if (error) reject((this.#failure ??= error))
        else resolve()
      })
    })
  }
}

/** Whether nobody reads any more, as behind `| head -1`: no reason to complain. */
export function isClosedPipe(error: unknown): boolean {
  return ['EPIPE', 'ERR_STREAM_DESTROYED'].includes(systemErrorCode(error) ?? '')
}
