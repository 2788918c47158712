import { AsyncResource } from 'node:async_hooks'
import { clearTimeout, setTimeout } from 'node:timers'

import { CallbackError, ChangeSignal, ignoreOutcome, isThenable, settledOrAborted, tellDamage, throwIfAborted } from '../async.ts'
import { isInstance, type MiniStoreError, type MiniStoreErrorContext } from '../errors.ts'
import type { StreamSettings } from '../ministore/settings.ts'
import type { ReplayCursor } from '../ministore/stream.ts'

/** Some records of a journal that follow each other, and where the journal stood then. */
export interface Page {
  readonly firstSequence: number
  readonly lastSequence: number
  /** Sequence number of the first line. */
  readonly from: number
  readonly lines: readonly string[]
}

/** What a replay reads. */
export interface PageSource {
  /** Name of the journal, for errors. */
  readonly path: string
  /**
   * Sequence number of the last record that may be read, if it is known without asking: that of a writer
   * is the last one acknowledged.
   */
  readonly acknowledged: number | undefined
  /**
   * Reads the next records from `from`, or from the oldest one, up to `to`; at least one if there is one.
   *
   * @throws {MiniStoreError} if the first of them is missing.
   */
  read(from: number | undefined, to: number): Promise<Page>
  /**
   * Waits for a record after this one, or until it is time to ask. Resolves with false once the journal is
   * closed. Rejects with the reason of the signal, and with the error that ends the journal.
   */
  more(last: number, changed: ChangeSignal, signal: AbortSignal): Promise<boolean>
  /** Calls back when there may be more. Resolves with a function that ends this. */
  listen(callback: () => void): Promise<() => void>
}

/** Turns lines into the items of a stream. */
export interface PageParser<Item> {
  /** Decodes a line, or throws. Returns a promise only for an asynchronous schema. */
  decode(line: string, context: () => MiniStoreErrorContext): unknown
  /** Makes the items of what was decoded. @default one is the other */
  pack?(decoded: readonly unknown[]): Item[]
}

/** Reads a journal page by page. Asks nothing before the first {@link advance}. */
export class PageCursor<Item> implements ReplayCursor<Item> {
  readonly #source: PageSource
  readonly #parser: PageParser<Item>
  readonly #settings: StreamSettings
  /** The asynchronous context in which the stream was created: that of the codec, the schema and `salvage`. */
  readonly #context = new AsyncResource('ministore.stream')
  readonly #closed = new AbortController()
  readonly #changed = new ChangeSignal()
  #listening: Promise<() => void> | undefined
  /** Whether a notification has come since the last wait. */
  #isHinted = false
  /** Sequence number of the next record to read, and of the last one. */
  #next: number | undefined
  #last: number | undefined
  /** The lines that were read, the sequence number of the first, and how many of them were decoded. */
  #lines: readonly string[] = []
  #from = 0
  #decoded = 0
  /** Items that can be taken, and the sequence number of the first of them. */
  #items: readonly Item[] = []
  #first = 0
  #index = 0

  /** @param first where a stream without `from` begins, if it is known. */
  constructor(source: PageSource, parser: PageParser<Item>, settings: StreamSettings, first?: number) {
    this.#source = source
    this.#parser = parser
    this.#settings = settings
    this.#next = settings.from ?? first
    this.#last = settings.follow ? settings.to ?? Number.MAX_SAFE_INTEGER : source.acknowledged
  }

  get hasRecord(): boolean {
    return this.#index < this.#items.length
  }

  get sequence(): number {
    return this.#first + this.#index
  }

  take(): Item {
    return this.#items[this.#index++] as Item
  }

  async advance(): Promise<boolean> {
    return await this.#context.runInAsyncScope(() => this.#advance())
  }

  async close(reason?: unknown): Promise<void> {
    this.#closed.abort(reason)
    this.#items = this.#lines = []
    if (this.#listening !== undefined) ignoreOutcome(this.#listening.then((end) => end()))
  }

  async #advance(): Promise<boolean> {
    try {
      for (;;) {
        throwIfAborted(this.#closed.signal)
        if (this.hasRecord) return true
        if (this.#decoded < this.#lines.length) await this.#decode()
        else if (!(await settledOrAborted(this.#read(), this.#closed.signal))) break
      }
      await this.close()
      return false
    } catch (error) {
      const { signal } = this.#closed
      const isLeft = signal.aborted
      await this.close(error)
      if (isLeft) throw signal.reason
      throw isInstance(error, CallbackError) ? error.cause : error
    }
  }

  /** Reads the next lines. Resolves with false at the end of the replay. */
  async #read(): Promise<boolean> {
    const { follow, to = Number.MAX_SAFE_INTEGER } = this.#settings
    const end = Math.min(to, this.#last ?? to)
    if (this.#next !== undefined && this.#next > end) return false
    const { acknowledged = end } = this.#source
    if (follow && this.#next !== undefined && this.#next > acknowledged) return await this.#wait()
    const page = await this.#source.read(this.#next, Math.min(end, acknowledged))
    this.#last ??= page.lastSequence
    this.#next = page.from + page.lines.length
    this.#from = page.from
    this.#lines = page.lines
    this.#decoded = 0
    return page.lines.length > 0 || (follow ? await this.#wait() : false)
  }

  async #wait(): Promise<boolean> {
    this.#listening ??= this.#source.listen(() => {
      this.#isHinted = true
      this.#changed.wake()
    })
    // What was written while a page was read is not in it.
    if (this.#isHinted) return !(this.#isHinted = false)
    return await this.#source.more((this.#next as number) - 1, this.#changed, this.#closed.signal)
  }

  /** Decodes lines up to the first one that is damaged. If that one is the first, reports it. */
  async #decode(): Promise<void> {
    const items: unknown[] = []
    const first = this.#decoded
    const context = (): MiniStoreErrorContext => ({ path: this.#source.path, sequence: this.#from + this.#decoded })
    let damage: unknown
    for (; this.#decoded < this.#lines.length; this.#decoded++) {
      try {
        const item = this.#parser.decode(this.#lines[this.#decoded] as string, context)
        items.push(isThenable(item) ? await settledOrAborted(Promise.resolve(item), this.#closed.signal) : item)
      } catch (error) {
        damage = error
        break
      }
    }
    this.#index = 0
    this.#first = this.#from + first
    this.#items = this.#parser.pack?.(items) ?? (items as Item[])
    if (items.length > 0 || damage === undefined) return
    throwIfAborted(this.#closed.signal)
    if (this.#settings.salvage === undefined) throw damage as MiniStoreError
    this.#decoded++
    const telling = tellDamage(this.#settings.salvage, damage as MiniStoreError)
    if (telling !== undefined) await settledOrAborted(telling, this.#closed.signal)
  }
}

/** Resolves when a change is signalled, or after this time. Rejects with the reason of the signal. */
export async function changeOrTime(changed: ChangeSignal, ms: number, signal: AbortSignal): Promise<void> {
  const timer = setTimeout(() => changed.wake(), ms)
  try {
    await changed.next(signal)
  } finally {
    clearTimeout(timer)
  }
}

/** Puts lines together into blocks of about 64 KiB, or one longer line. */
export function blocksOf(lines: readonly unknown[]): Uint8Array[] {
  const blocks: Uint8Array[] = []
  const encoder = new TextEncoder()
  let text = ''
  for (const line of lines as readonly string[]) {
    // No byte count: a code unit takes up to three bytes, and a block may be smaller.
    if (text !== '' && 3 * (text.length + line.length + 1) > blockBytes) {
      blocks.push(encoder.encode(text))
      text = ''
    }
    text += `${line}\n`
  }
  if (text !== '') blocks.push(encoder.encode(text))
  return blocks
}

const blockBytes = 64 * 1024
