import { clearTimeout, setImmediate, setTimeout } from 'node:timers'

import { MiniStoreError } from '../errors.ts'
import { MiniStore } from '../ministore/ministore.ts'
import { toJson } from '../schema.ts'
import { Problem } from './record.ts'
import type { ServedJournal } from './settings.ts'

/** What a reader reads: a stream of the directory, or a journal. */
export interface Source {
  /**
   * Where the stream stands now.
   *
   * @param options.isRead Whether this counts as a read, which prolongs the life of a stream with a
   *   time to live.
   * @throws {NoStream}
   */
  look(options: { readonly isRead: boolean }): Promise<Look>
  /**
   * The messages after a position, up to about `limit` bytes of them, at least one record. Empty at the
   * tail.
   *
   * @throws {NoStream}
   * @throws {MiniStoreError} `ERR_MINISTORE_SEQUENCE_GONE` if they are no longer there.
   */
  read(from: number, limit: number): Promise<Chunk>
  /** Wakes when the stream has changed. */
  readonly waiters: Waiters
  /** Must be called at the end. */
  release(): void
}

/** How a stream stands. Positions are numbers of records that come before. */
export interface Look {
  /** Identity of the journal, for entity tags. */
  readonly id: string
  /** Content type. */
  readonly type: string
  /** The oldest position from which can be read. */
  readonly first: number
  /** The position after the last message. */
  readonly tail: number
  readonly isClosed: boolean
  /** Stream-TTL, in seconds. */
  readonly ttl?: number | undefined
  /** Stream-Expires-At, in milliseconds since 1970. */
  readonly expires?: number | undefined
}

/** Some messages of a stream. Many readers may share it, so nothing in it may be changed. */
export interface Chunk {
  /** The position after them. */
  readonly next: number
  /** Their bytes; of a JSON stream, the values with commas between them. */
  readonly body: Buffer
}

/** Collects messages up to a limit. */
export class ChunkBuilder {
  readonly #parts: Buffer[] = []
  readonly #separator: Buffer | undefined
  #bytes = 0

  /** @param separator comes between two messages. */
  constructor(separator: Buffer | undefined) {
    this.#separator = separator
  }

  get bytes(): number {
    return this.#bytes
  }

  add(body: Buffer): void {
    if (this.#separator !== undefined && this.#parts.length > 0) this.#parts.push(this.#separator)
    this.#parts.push(body)
    this.#bytes += body.length
  }

  chunk(next: number): Chunk {
    const [only] = this.#parts
    return { next, body: this.#parts.length === 1 && only !== undefined ? only : Buffer.concat(this.#parts) }
  }
}

/** Lets readers at the same position share a read while it is under way. */
export class SharedRead {
  #pending: { readonly from: number; readonly chunk: Promise<Chunk> } | undefined

  read(from: number, start: () => Promise<Chunk>): Promise<Chunk> {
    if (this.#pending?.from === from) return this.#pending.chunk
    const chunk = start().finally(() => {
      if (this.#pending?.chunk === chunk) this.#pending = undefined
    })
    this.#pending = { from, chunk }
    return chunk
  }
}

/** Between the messages of a JSON stream. */
export const comma: Buffer = Buffer.from(',')

/** The {@link Problem} of a stream that is not there. */
export class NoStream extends Problem {
  /** Whether it was deleted and only its forks still read it. */
  readonly isDeleted: boolean

  constructor(isDeleted: boolean) {
    super(isDeleted ? 410 : 404, isDeleted ? 'The stream was deleted' : 'There is no such stream')
    this.isDeleted = isDeleted
  }
}

/** Requests that wait for a stream to change. */
export class Waiters {
  readonly #waiting = new Set<(outcome: 'changed') => void>()
  /** Whether those who wait have yet to run after the last change. */
  isWaking = false
  /** Changes with every change. Whoever has seen this version has seen all changes so far. */
  version = 0

  get count(): number {
    return this.#waiting.size
  }

  /**
   * Resolves at the first change after a version, after `ms` milliseconds, or when the signal is
   * aborted.
   */
  wait(version: number, ms: number, signal: AbortSignal): Promise<'changed' | 'timeout' | 'aborted'> {
    if (this.version !== version) return Promise.resolve('changed')
    if (signal.aborted) return Promise.resolve('aborted')
    return new Promise((resolve) => {
      const end = (outcome: 'changed' | 'timeout' | 'aborted'): void => {
        clearTimeout(timer)
        signal.removeEventListener('abort', onAbort)
        this.#waiting.delete(end)
        resolve(outcome)
      }
      const onAbort = (): void => end('aborted')
      const timer = setTimeout(() => end('timeout'), ms)
      signal.addEventListener('abort', onAbort, { once: true })
      this.#waiting.add(end)
    })
  }

  /** Wakes all, after everything that is ready has run, such as the answer to the request that made the change. */
  wake(): void {
    this.version += 1
    if (this.isWaking || this.#waiting.size === 0) return
    this.isWaking = true
    setImmediate(() => {
      this.isWaking = false
      for (const end of this.#waiting) end('changed')
    })
  }
}

/** How long the follower of a journal goes on without readers, in milliseconds. Long-polls come one after another. */
const lingerMs = 10_000

/** Bytes of new records that a follower keeps for the readers that wait for them. */
const maxRecentBytes = 64 * 1024

/**
 * A journal that something else writes, as a stream that can only be read. Each record is a message, and
 * the sequence number of the last record that was read is the offset.
 *
 * One follower reads new records for all readers that wait, and only while there are any.
 */
export class JournalSource {
  readonly #waiters = new Waiters()
  readonly #journal: ServedJournal
  readonly #onError: (error: unknown) => void
  /** Requests that wait for records. */
  #readers = 0
  #follower: AbortController | undefined
  #linger: NodeJS.Timeout | undefined
  /** Why the follower has ended, for those who wait for it. */
  #failure: Error | undefined
  /** The last record that the follower has seen. */
  #seen = 0
  /** The newest records, from one position on, as long as they are few. */
  #recent: { readonly from: number; readonly chunk: Chunk } | undefined
  readonly #shared = new SharedRead()

  private constructor(journal: ServedJournal, onError: (error: unknown) => void) {
    this.#journal = journal
    this.#onError = onError
  }

  static async open(given: ServedJournal | string, onError: (error: unknown) => void): Promise<JournalSource> {
    return new JournalSource(typeof given === 'string' ? await MiniStore.read(given) : given, onError)
  }

  /** What one request reads. */
  reader({ isLive }: { readonly isLive: boolean }): Source {
    if (isLive) {
      this.#readers += 1
      this.#failure = undefined
      clearTimeout(this.#linger)
    }
    return {
      waiters: this.#waiters,
      look: () => this.#look({ isLive }),
      read: async (from, limit) => {
        const recent = this.#recent
        return recent?.from === from ? recent.chunk : await this.#shared.read(from, () => this.#read(from, limit))
      },
      release: () => {
        if (isLive) this.#release()
      },
    }
  }

  /** Ends the follower. */
  stop(): void {
    clearTimeout(this.#linger)
    this.#follower?.abort()
    this.#follower = undefined
    this.#recent = undefined
  }

  #release(): void {
    this.#readers -= 1
    if (this.#readers > 0) return
    this.#linger = setTimeout(() => this.stop(), lingerMs)
    this.#linger.unref()
  }

  async #look({ isLive }: { readonly isLive: boolean }): Promise<Look> {
    const journal = this.#journal
    if (this.#failure !== undefined && isLive) throw this.#failure
    if (this.#follower === undefined) await journal.refresh?.()
    const tail = Math.max(journal.lastSequence, this.#follower === undefined ? 0 : this.#seen)
    if (isLive) this.#startFollower(tail)
    return { id: journal.id ?? '', type: 'application/json', first: journal.firstSequence - 1, tail, isClosed: false }
  }

  async #read(from: number, limit: number): Promise<Chunk> {
    const builder = new ChunkBuilder(comma)
    const to = Math.max(this.#journal.lastSequence, this.#seen)
    let next = from
    if (from >= to) return builder.chunk(from)
    for await (const { sequence, record } of this.#journal.entries({ from: from + 1, to })) {
      builder.add(bodyOf(record))
      next = sequence
      if (builder.bytes >= limit) break
    }
    return builder.chunk(next)
  }

  #startFollower(tail: number): void {
    if (this.#follower !== undefined) return
    const stop = new AbortController()
    this.#follower = stop
    this.#seen = tail
    this.#follow(tail, stop.signal)
      .then(() => {
        throw new MiniStoreError('ERR_MINISTORE_CLOSED', 'The journal was closed')
      })
      .catch((error: unknown) => {
        if (stop.signal.aborted) return
        this.#failure = error as Error
        this.#follower = undefined
        this.#recent = undefined
        this.#onError(error)
        this.#waiters.wake()
      })
  }

  async #follow(tail: number, signal: AbortSignal): Promise<void> {
    for await (const { sequence, record } of this.#journal.entries({ from: tail + 1, follow: true, signal })) {
      const body = bodyOf(record)
      const { isWaking } = this.#waiters
      // Readers that have not run since the record before find both; those that have find this one.
      const before = this.#recent
      const isMore = isWaking && before !== undefined && before.chunk.body.length + body.length <= maxRecentBytes
      const from = isMore ? before.from : sequence - 1
      this.#recent = { from, chunk: { next: sequence, body: isMore ? Buffer.concat([before.chunk.body, comma, body]) : body } }
      this.#seen = sequence
      this.#waiters.wake()
    }
  }
}

function bodyOf(record: unknown): Buffer {
  return Buffer.from(toJson(record, 'record'))
}
