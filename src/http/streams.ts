import { createHash } from 'node:crypto'
import { join, resolve } from 'node:path'

import PQueue from 'p-queue'

import { addInContext } from '../async.ts'
import { ioError, MiniStoreError } from '../errors.ts'
import { ensureDirectory } from '../fs/durable.ts'
import { WriterLock } from '../fs/lock.ts'
import { MiniStore } from '../ministore/ministore.ts'
import {
  bytesAsData, type Creation, type Data, dataOf, type Fork, isJson, isSameType, jsonData, type StreamRecord,
} from './record.ts'
import type { HttpSettings } from './settings.ts'
import { type Chunk, ChunkBuilder, comma, type Look, NoStream, type Source, Waiters } from './source.ts'
import { type Change, journalName, Stream, type Written } from './stream.ts'

/** What a PUT asks for. */
export interface CreateRequest {
  /** Undefined if the request does not say: then that of the source, or `application/octet-stream`. */
  readonly type: string | undefined
  readonly ttl: number | undefined
  readonly expires: number | undefined
  readonly close: boolean
  readonly fork: { readonly from: string; readonly at: number | undefined; readonly sub: number } | undefined
  readonly body: Uint8Array
}

/** The outcome of a PUT. `isNew` tells whether it made the stream; `isSame`, whether the stream is as the request wants it. */
export interface Created extends Written {
  readonly isNew: boolean
  readonly isSame: boolean
  readonly type: string
}

/** Thrown for a fork that cannot be made. */
export class ForkProblem extends Error {
  readonly reason: 'source-missing' | 'source-deleted' | 'offset' | 'type'

  constructor(reason: ForkProblem['reason'], message: string) {
    super(message)
    this.reason = reason
  }
}

/** Thrown if there are as many streams as there may be. */
export class TooManyStreams extends Error {}

/** One name, while a request uses it or its journal is open. */
interface Entry {
  readonly name: string
  readonly waiters: Waiters
  stream: Stream | undefined
  /** Requests that use the journal now. */
  users: number
  /** Readers that come back. They keep the entry, not the journal. */
  pins: number
  /** Settles when the journal is no longer being opened or closed. */
  turn: Promise<unknown>
}

/** Name of the file that the server locks in its directory. No stream has this name: theirs begin with `+`. */
const lockName = 'server.lock'

/**
 * The streams of a directory.
 *
 * **Invariant.** A source is deleted with its files only if no fork reads it. A source notes a fork before
 * the fork is made, and drops the note after it is deleted. So after a crash there may be a note without a
 * fork, never a fork without a note; whether a fork is there is looked up before the note is believed.
 */
export class Streams {
  readonly #directory: string
  readonly #settings: HttpSettings
  readonly #lock: WriterLock
  readonly #entries = new Map<string, Entry>()
  /** Entries whose journal is open or being opened, the one used least recently first. */
  readonly #open = new Set<Entry>()
  /** At most so many use a journal at once. So one that is not in use can be closed for the next. */
  readonly #slots: PQueue
  /** For each source, the forks that are being made. */
  readonly #forking = new Map<string, number>()
  /** Streams on the disk, if they are counted. */
  #count: number

  private constructor(directory: string, settings: HttpSettings, lock: WriterLock, count: number) {
    this.#directory = directory
    this.#settings = settings
    this.#lock = lock
    this.#count = count
    this.#slots = new PQueue({ concurrency: settings.maxOpenStreams })
  }

  /** Locks the directory. Opens no stream. */
  static async open(given: string, settings: HttpSettings): Promise<Streams> {
    const directory = resolve(given)
    const { fileSystem, lock: kernel, maxStreams } = settings
    const path = join(directory, lockName)
    try {
      await ensureDirectory(fileSystem, directory)
      const lock = await WriterLock.acquire(fileSystem, path, { kernel, holder: {}, journalPath: path, access: undefined })
      const count = maxStreams === Number.POSITIVE_INFINITY ? 0 : (await fileSystem.list(directory)).filter((name) => name.startsWith('+')).length
      return new Streams(directory, settings, lock, count)
    } catch (error) {
      throw ioError(`open the streams in ${directory}`, error, { path: directory })
    }
  }

  /**
   * Works on a stream.
   *
   * @throws {NoStream} if it does not exist, has expired, or is deleted.
   */
  async on<T>(name: string, work: (stream: Stream) => Promise<T> | T): Promise<T> {
    for (;;) {
      const found = await this.#visit(name, async (stream) => {
        if (stream?.state.creation === undefined) throw new NoStream(false)
        return isOver(stream) ? undefined : { result: await work(stream) }
      })
      if (found !== undefined) return found.result
      const outcome = await this.#collect(name, isOver)
      if (outcome !== 'alive') throw new NoStream(outcome === 'kept')
    }
  }

  /** What a reader of the stream reads, until it is released. */
  source(name: string): Source {
    const entry = this.#entry(name)
    entry.pins += 1
    return {
      waiters: entry.waiters,
      look: ({ isRead }): Promise<Look> =>
        this.on(name, (stream) => {
          if (isRead) stream.touch()
          return stream.look()
        }),
      read: (from, limit) => this.#read(name, from, limit),
      release: () => {
        entry.pins -= 1
        this.#forget(entry)
      },
    }
  }

  async write(name: string, change: Change): Promise<Written> {
    return await this.on(name, async (stream) => {
      const written = await stream.write(change)
      stream.touch()
      return written
    })
  }

  /**
   * Makes a stream, or finds it. When it resolves, the stream is durable, with its first messages.
   *
   * @throws {ForkProblem}
   * @throws {TooManyStreams}
   */
  async create(name: string, request: CreateRequest): Promise<Created> {
    const existing = await this.#found(name, request)
    if (existing !== undefined) return existing
    if (request.fork !== undefined) return await this.#createFork(name, request, request.fork)
    const type = request.type ?? 'application/octet-stream'
    return await this.#make(name, request, creationOf(name, request, { type }), dataOf(request.body, type))
  }

  /**
   * Deletes a stream. When it resolves, the deletion is durable. A stream with forks is kept for them.
   *
   * @throws {NoStream}
   */
  async delete(name: string): Promise<void> {
    await this.on(name, () => {})
    await this.#collect(name, () => true)
  }

  /** Deletes the streams whose time is over. Opens all streams, one after another. */
  async deleteExpired(): Promise<void> {
    for (const directory of await this.#settings.fileSystem.list(this.#directory)) {
      if (!directory.startsWith('+')) continue
      const { fileSystem } = this.#settings
      for await (const { record } of MiniStore.entries<StreamRecord>(join(this.#directory, directory, journalName), { to: 1, fileSystem })) {
        await this.on(record.create?.name ?? '', () => {}).catch((error: unknown) => {
          if (!(error instanceof NoStream)) throw error
        })
      }
    }
  }

  /** Wakes all readers, waits for all work, closes all journals and frees the lock. */
  async close(): Promise<void> {
    for (const { waiters } of this.#entries.values()) waiters.wake()
    await this.#slots.onIdle()
    const closed = await Promise.allSettled([...this.#open].map((entry) => this.#shut(entry)))
    await this.#lock.release()
    for (const outcome of closed) if (outcome.status === 'rejected') throw outcome.reason
  }

  async #found(name: string, { type, ttl, expires, close, fork }: CreateRequest): Promise<Created | undefined> {
    try {
      return await this.on(name, (stream) => {
        const { type: has, tail, isClosed } = stream.look()
        const creation = stream.state.creation as Creation
        const isSame =
          (type === undefined ? fork !== undefined || has === 'application/octet-stream' : isSameType(type, has)) &&
          (creation.fork?.from === fork?.from) &&
          (fork?.at === undefined || fork.at === creation.fork?.at) &&
          (fork?.sub ?? 0) === (creation.fork?.sub ?? 0) &&
          ((fork !== undefined && ttl === undefined && expires === undefined) || (ttl === creation.ttl && expires === creation.expires)) &&
          close === isClosed
        return { isNew: false, isSame, type: has, refusal: undefined, tail, isClosed }
      })
    } catch (error) {
      if (!(error instanceof NoStream)) throw error
      if (!error.isDeleted) return undefined
      return { isNew: false, isSame: false, type: '', refusal: { reason: 'deleted' }, tail: 0, isClosed: false }
    }
  }

  async #make(name: string, { close }: CreateRequest, creation: Creation, data: Data | undefined): Promise<Created> {
    if (this.#count >= this.#settings.maxStreams) throw new TooManyStreams('There are as many streams as there may be')
    this.#count += 1
    let written: Written | undefined
    try {
      const record: StreamRecord = { create: creation, ...(close ? { close } : {}) }
      const isFree: Change['judge'] = (state) => (state.creation === undefined ? undefined : { reason: 'closed' })
      const make = (stream: Stream | undefined): Promise<Written> => (stream as Stream).write({ judge: isFree, record, data })
      written = await this.#visit(name, make, { create: true })
    } finally {
      if (written === undefined || written.refusal !== undefined) this.#count -= 1
    }
    // If another request was faster, the client may look at what that one made.
    const isNew = written.refusal === undefined
    return { ...written, isNew, isSame: isNew, type: creation.type }
  }

  async #createFork(name: string, request: CreateRequest, { from, at, sub }: NonNullable<CreateRequest['fork']>): Promise<Created> {
    this.#forking.set(from, (this.#forking.get(from) ?? 0) + 1)
    try {
      const source = await this.on(from, (stream) => ({ ...stream.look(), id: stream.id })).catch((error: unknown) => {
        if (!(error instanceof NoStream)) throw error
        throw new ForkProblem(error.isDeleted ? 'source-deleted' : 'source-missing', `The source: ${error.message}`)
      })
      const { type } = source
      if (request.type !== undefined && !isSameType(request.type, type)) throw new ForkProblem('type', `The source has the content type ${type}`)
      const position = at ?? source.tail
      if (position > source.tail) throw new ForkProblem('offset', 'The source ends before this offset')
      const prefix = sub === 0 ? undefined : await this.#prefix(from, position, { sub, type })
      const inherits = request.ttl === undefined && request.expires === undefined
      const { ttl, expires } = inherits ? source : request
      const fork: Fork = { from, id: source.id, at: position, sub }
      const data = joined(prefix, dataOf(request.body, type), type)
      const isThere: Change['judge'] = ({ isDeleted }) => (isDeleted ? { reason: 'deleted' } : undefined)
      const { refusal } = await this.on(from, (stream) => stream.write({ judge: isThere, record: { fork: name } }))
      if (refusal !== undefined) throw new ForkProblem('source-deleted', 'The source was deleted')
      return await this.#make(name, request, creationOf(name, { ttl, expires }, { type, fork }), data)
    } finally {
      const others = (this.#forking.get(from) as number) - 1
      if (others === 0) this.#forking.delete(from)
      else this.#forking.set(from, others)
    }
  }

  /** The part of the record after a position that a fork copies. */
  async #prefix(from: string, position: number, { sub, type }: { readonly sub: number; readonly type: string }): Promise<Data> {
    const { body } = await this.#read(from, position, 1)
    if (isJson(type)) {
      const values = JSON.parse(`[${body.toString()}]`) as unknown[]
      if (sub <= values.length) return jsonData(values.slice(0, sub).map((value) => JSON.stringify(value)).join(','))
    } else if (sub <= body.length) {
      return bytesAsData(body.subarray(0, sub))
    }
    throw new ForkProblem('offset', 'The record after this offset is shorter than the sub-offset')
  }

  /** Reads from the stream, and before its own records, from those that it was forked from. */
  async #read(name: string, from: number, limit: number): Promise<Chunk> {
    const own = await this.on<Chunk | Creation>(name, (stream) => (from < stream.base ? (stream.state.creation as Creation) : stream.read(from, limit)))
    if ('body' in own) return own
    const builder = new ChunkBuilder(isJson(own.type) ? comma : undefined)
    let position = from
    for (const { from: source, id, at: cap } of await this.#sources(own.fork as Fork, from)) {
      // Also from a source that is deleted for everybody else.
      const { next, body } = await this.#visit(source, (stream) => sourceOf(stream, id).read(position, limit - builder.bytes, { cap }))
      if (body.length > 0) builder.add(body)
      position = next
      if (builder.bytes >= limit) return builder.chunk(position)
    }
    const { next, body } = await this.on(name, (stream) => stream.read(position, limit - builder.bytes))
    if (body.length > 0) builder.add(body)
    return builder.chunk(next)
  }

  /** Where the records of a fork lie from a position on, before its own: the oldest first. */
  async #sources(fork: Fork, from: number): Promise<Fork[]> {
    const inherited = await this.#visit(fork.from, (stream) => {
      const { creation } = sourceOf(stream, fork.id).state
      return creation?.fork !== undefined && from < creation.fork.at ? creation.fork : undefined
    })
    if (inherited === undefined) return [fork]
    const sources = await this.#sources({ ...inherited, at: Math.min(inherited.at, fork.at) }, from)
    return fork.at > inherited.at ? [...sources, fork] : sources
  }

  /**
   * Removes a stream that fulfils a condition, unless forks read it: then it is only marked as deleted.
   * Resolves with whether it is gone, kept for its forks, or does not fulfil the condition.
   */
  async #collect(name: string, condition: (stream: Stream) => boolean): Promise<'gone' | 'kept' | 'alive'> {
    for (;;) {
      const seen = await this.#visit(name, (stream) =>
        stream?.state.creation === undefined ? undefined : { id: stream.id, forks: stream.state.forks, source: stream.state.creation.fork },
      )
      if (seen === undefined) return 'gone'
      const isRead = this.#forking.has(name) || (await this.#hasForks(name, seen))
      const outcome = await this.#visit(name, async (stream) => {
        if (stream?.state.creation === undefined) return 'gone'
        const isSame = stream.id === seen.id && String(stream.state.forks) === String(seen.forks)
        if (!isSame || (!isRead && this.#forking.has(name))) return 'changed'
        if (!condition(stream)) return 'alive'
        if (isRead) await stream.write({ judge: ({ isDeleted }) => (isDeleted ? { reason: 'deleted' } : undefined), record: { deleted: true } })
        else await this.#remove(this.#entry(name), stream)
        return isRead ? 'kept' : 'gone'
      })
      if (outcome === 'changed') continue
      if (outcome === 'gone' && seen.source !== undefined) await this.#release(seen.source, name)
      return outcome
    }
  }

  async #hasForks(name: string, { id, forks }: { readonly id: string; readonly forks: readonly string[] }): Promise<boolean> {
    for (const fork of forks) {
      const isThere = await this.#visit(fork, (stream) => {
        const { creation, isDeleted } = stream?.state ?? {}
        const isFork = creation?.fork?.from === name && creation.fork.id === id
        return isFork && (isDeleted === true || stream?.isExpired(Date.now()) === false || (stream?.state.forks.length ?? 0) > 0)
      })
      if (isThere) return true
    }
    return false
  }

  /** Drops the note of a fork that is gone, and then the source, if it was only kept for its forks. */
  async #release({ from, id }: Fork, name: string): Promise<void> {
    const isDeleted = await this.#visit(from, async (stream) => {
      if (stream === undefined || stream.id !== id) return false
      await stream.write({ judge: () => undefined, record: { unfork: name } })
      return stream.state.isDeleted
    })
    if (isDeleted) await this.#collect(from, ({ state }) => state.isDeleted)
  }

  /** Opens the journal of a name, unless it is open, and keeps it open for the work. */
  async #visit<T>(
    name: string,
    work: (stream: Stream | undefined) => Promise<T> | T,
    { create = false }: { readonly create?: boolean } = {},
  ): Promise<T> {
    return await addInContext(this.#slots, async () => {
      const entry = this.#entry(name)
      entry.users += 1
      try {
        const { stream } = entry
        const isReady = stream !== undefined && !stream.isUnusable
        return await work(isReady ? stream : await inTurn(entry, () => this.#opened(entry, create)))
      } finally {
        entry.users -= 1
        // The end of a set is what was used last.
        if (this.#open.delete(entry)) this.#open.add(entry)
        this.#forget(entry)
      }
    })
  }

  async #opened(entry: Entry, create: boolean): Promise<Stream | undefined> {
    if (entry.stream?.isUnusable === false) return entry.stream
    // It failed. Opening it again tells what it holds.
    if (entry.stream !== undefined) await this.#shutInTurn(entry).catch(() => {})
    this.#open.add(entry)
    try {
      while (this.#open.size > this.#settings.maxOpenStreams) await this.#shut(this.#leastRecent())
      entry.stream = await Stream.open(this.#pathOf(entry.name), this.#settings, { create })
    } finally {
      if (entry.stream === undefined) this.#open.delete(entry)
    }
    const { stream } = entry
    if (stream !== undefined) stream.onChange = () => entry.waiters.wake()
    return stream
  }

  /** There is one: of the entries that are not idle, this one included, there are no more than slots. */
  #leastRecent(): Entry {
    for (const entry of this.#open) if (entry.users === 0) return entry
    throw new Error('All open streams are in use')
  }

  async #shut(entry: Entry): Promise<void> {
    // Out of the set at once, so that nobody else chooses it.
    this.#open.delete(entry)
    await inTurn(entry, async () => {
      if (entry.users > 0) this.#open.add(entry)
      else await this.#shutInTurn(entry)
    })
    this.#forget(entry)
  }

  async #shutInTurn(entry: Entry): Promise<void> {
    const { stream } = entry
    entry.stream = undefined
    this.#open.delete(entry)
    // Without its first record it is no stream.
    if (stream?.state.creation === undefined) await stream?.remove()
    else await stream.close()
  }

  async #remove(entry: Entry, stream: Stream): Promise<void> {
    await inTurn(entry, async () => {
      if (entry.stream !== stream) return
      await stream.remove()
      entry.stream = undefined
      this.#open.delete(entry)
      this.#count -= 1
    })
    entry.waiters.wake()
  }

  #entry(name: string): Entry {
    let entry = this.#entries.get(name)
    if (entry === undefined) {
      entry = { name, waiters: new Waiters(), stream: undefined, users: 0, pins: 0, turn: Promise.resolve() }
      this.#entries.set(name, entry)
    }
    return entry
  }

  #forget(entry: Entry): void {
    const isIdle = entry.users === 0 && entry.pins === 0 && entry.stream === undefined
    if (isIdle && this.#entries.get(entry.name) === entry) this.#entries.delete(entry.name)
  }

  #pathOf(name: string): string {
    return join(this.#directory, directoryName(name))
  }
}

/** Whether a stream is only there until its forks are gone. */
function isOver(stream: Stream): boolean {
  return stream.state.isDeleted || stream.isExpired(Date.now())
}

function inTurn<T>(entry: Entry, task: () => Promise<T>): Promise<T> {
  const done = entry.turn.then(task)
  entry.turn = done.catch(() => {})
  return done
}

function sourceOf(stream: Stream | undefined, id: string): Stream {
  if (stream?.id === id) return stream
  throw new MiniStoreError('ERR_MINISTORE_FOREIGN_JOURNAL', 'The source of a fork is gone, or its journal is another one')
}

function creationOf(
  name: string,
  { ttl, expires }: { readonly ttl?: number | undefined; readonly expires?: number | undefined },
  { type, fork }: { readonly type: string; readonly fork?: Fork },
): Creation {
  return {
    name, type,
    ...(ttl === undefined ? {} : { ttl }), ...(expires === undefined ? {} : { expires }), ...(fork === undefined ? {} : { fork }),
  }
}

function joined(prefix: Data | undefined, data: Data | undefined, type: string): Data | undefined {
  if (prefix === undefined || data === undefined) return prefix ?? data
  if (isJson(type)) return jsonData(`${prefix.body.toString()},${data.body.toString()}`)
  return bytesAsData(Buffer.concat([prefix.body, data.body]))
}

/** Longest name of a directory, in characters: file systems take 255 bytes. */
const maxDirectoryName = 200

/**
 * The directory of a stream: its name with `+` before it and for each slash, and with `=` and two
 * hexadecimal digits for each character but lower-case letters, digits, `-` and `_`. So different names
 * have different directories even where upper and lower case are the same, and none means anything to
 * a file system. A long name ends in its SHA-256.
 */
export function directoryName(name: string): string {
  const encoded = `+${name.replace(/[^a-z0-9_-]/g, (character) =>
    character === '/' ? '+' : `=${character.charCodeAt(0).toString(16).padStart(2, '0')}`)}`
  if (encoded.length <= maxDirectoryName) return encoded
  return `${encoded.slice(0, 100)}=-${createHash('sha256').update(name).digest('hex')}`
}
