import { join } from 'node:path'

import { tell } from '../async.ts'
import { MiniStoreError } from '../errors.ts'
import { MiniStore } from '../ministore/ministore.ts'
import { OpenStreams } from './open-streams.ts'
import {
  bytesAsData, type Creation, type Data, dataOf, type Fork, isJson, isSameType, jsonData, Problem, type StreamRecord,
} from './record.ts'
import type { HttpSettings } from './settings.ts'
import { type Chunk, ChunkBuilder, comma, type Look, NoStream, type Source } from './source.ts'
import { type Change, journalName, type Stream, type Written } from './stream.ts'

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

/** The outcome of a PUT: the stream as the request wants it. */
export interface Created {
  /** Whether the request made it. */
  readonly isNew: boolean
  readonly type: string
  readonly tail: number
  readonly isClosed: boolean
}

/**
 * The streams of a directory.
 *
 * **Invariant.** A source is deleted with its files only if no fork reads it. A source notes a fork before
 * the fork is made, and drops the note after it is deleted. So after a crash there may be a note without a
 * fork, never a fork without a note; whether a fork is there is looked up before the note is believed.
 */
export class Streams {
  readonly #settings: HttpSettings
  readonly #open: OpenStreams
  /** For each source, how many forks are being made. */
  readonly #forking = new Map<string, number>()
  #forksMade = 0
  /** Streams on the disk, if they are counted. */
  #count: number

  private constructor(settings: HttpSettings, open: OpenStreams, count: number) {
    this.#settings = settings
    this.#open = open
    this.#count = count
  }

  /** Creates and locks the directory. Opens no stream. */
  static async open(directory: string, settings: HttpSettings): Promise<Streams> {
    const open = await OpenStreams.at(directory, settings)
    const isCounted = settings.maxStreams < Number.POSITIVE_INFINITY
    return new Streams(settings, open, isCounted ? (await open.directories()).length : 0)
  }

  /**
   * Works on a stream.
   *
   * @throws {NoStream} if it does not exist, has expired, or is deleted.
   */
  async on<T>(name: string, work: (stream: Stream) => Promise<T> | T): Promise<T> {
    for (;;) {
      const found = await this.#open.visit(name, async (stream) => {
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
    const look: Source['look'] = ({ isRead }) =>
      this.on(name, (stream): Look => {
        if (isRead) stream.touch()
        return stream.look()
      })
    return { ...this.#open.waitersOf(name), look, read: (from, limit) => this.#read(name, from, limit) }
  }

  /**
   * Makes a stream, or finds it. When it resolves, the stream is durable, with its first messages.
   *
   * @throws {Problem} if there is another stream, or none can be made.
   */
  async create(name: string, request: CreateRequest): Promise<Created> {
    for (;;) {
      const made = (await this.#found(name, request)) ?? (await this.#make(name, request))
      // Otherwise another request was faster.
      if (made !== undefined) return made
    }
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

  /** Deletes the streams whose time is over. Opens all streams, one after another. Reports those that it cannot open. */
  async deleteExpired(): Promise<void> {
    const { fileSystem, onError } = this.#settings
    for (const directory of await this.#open.directories()) {
      try {
        for await (const { create } of MiniStore.stream<StreamRecord>(join(directory, journalName), { to: 1, fileSystem })) {
          if (create !== undefined) await this.on(create.name, () => {})
        }
      } catch (error) {
        if (!(error instanceof NoStream)) tell(onError, error)
      }
    }
  }

  /** Wakes all readers, waits for all work, closes all journals and frees the lock. */
  async close(): Promise<void> {
    await this.#open.close()
  }

  async #found(name: string, { type, ttl, expires, close, fork }: CreateRequest): Promise<Created | undefined> {
    const found = await this.on(name, (stream) => ({ ...stream.look(), creation: stream.state.creation as Creation })).catch((error: unknown) => {
      if (!(error instanceof NoStream)) throw error
      if (error.isDeleted) throw new Problem(409, 'The stream was deleted, and its forks still read it')
    })
    if (found === undefined) return undefined
    const { creation, isClosed, tail } = found
    const isLike = (other: string): boolean => isSameType(other, creation.type)
    const inherits = fork !== undefined && ttl === undefined && expires === undefined
    const isSame =
      (type === undefined ? fork !== undefined || isLike(defaultType) : isLike(type)) &&
      (inherits || (ttl === creation.ttl && expires === creation.expires)) &&
      creation.fork?.from === fork?.from &&
      (fork?.at ?? creation.fork?.at) === creation.fork?.at &&
      (fork?.sub ?? 0) === (creation.fork?.sub ?? 0) &&
      close === isClosed
    if (!isSame) throw new Problem(409, 'The stream is there already, and is not as this request wants it')
    return { isNew: false, type: creation.type, tail, isClosed }
  }

  async #make(name: string, request: CreateRequest): Promise<Created | undefined> {
    if (this.#count >= this.#settings.maxStreams) throw new Problem(507, 'There are as many streams as there may be')
    this.#count += 1
    let created: Created | undefined
    try {
      const { type = defaultType, ttl, expires, close } = request
      created =
        request.fork === undefined
          ? await this.#write({ name, type, ttl, expires }, close, dataOf(request.body, type))
          : await this.#fork(name, request, request.fork)
      return created
    } finally {
      if (created === undefined) this.#count -= 1
    }
  }

  /** Writes the first record of a stream. Undefined if there is one already. */
  async #write(
    { name, type, ttl, expires, fork }: Pick<Creation, 'name' | 'type' | 'fork'> & Pick<CreateRequest, 'ttl' | 'expires'>,
    close: boolean,
    data: Data | undefined,
  ): Promise<Created | undefined> {
    const create: Creation = {
      name, type, ...(ttl === undefined ? {} : { ttl }), ...(expires === undefined ? {} : { expires }), ...(fork === undefined ? {} : { fork }),
    }
    const record: StreamRecord = { create, ...(close ? { close } : {}) }
    const begin = (stream: Stream | undefined): Promise<Written> => (stream as Stream).write({ judge: unlessThere, record, data })
    const { refusal, tail, isClosed } = await this.#open.visit(create.name, begin, { create: true })
    return refusal === undefined ? { isNew: true, type: create.type, tail, isClosed } : undefined
  }

  async #fork(name: string, request: CreateRequest, { from, at, sub }: NonNullable<CreateRequest['fork']>): Promise<Created | undefined> {
    this.#forking.set(from, (this.#forking.get(from) ?? 0) + 1)
    try {
      const source = await this.on(from, (stream) => stream.look()).catch((error: unknown) => {
        throw error instanceof NoStream ? new Problem(error.isDeleted ? 409 : 404, `The source: ${error.message}`) : error
      })
      const { type } = source
      if (request.type !== undefined && !isSameType(request.type, type)) throw new Problem(409, `The source has the content type ${type}`)
      const position = at ?? source.tail
      if (position > source.tail) throw new Problem(400, 'The source ends before this offset')
      const prefix = sub === 0 ? undefined : await this.#prefix(from, position, { sub, type })
      const data = joined(prefix, dataOf(request.body, type), type)
      const { refusal } = await this.on(from, (stream) => stream.write({ judge: unlessDeleted, record: { fork: name } }))
      if (refusal !== undefined) throw new Problem(409, 'The source was deleted')
      const { ttl, expires } = request.ttl === undefined && request.expires === undefined ? source : request
      return await this.#write({ name, type, ttl, expires, fork: { from, id: source.id, at: position, sub } }, request.close, data)
    } finally {
      const others = (this.#forking.get(from) as number) - 1
      this.#forksMade += 1
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
    throw new Problem(400, 'The record after this offset is shorter than the sub-offset')
  }

  /** Reads from the stream, and before its own records, from those that it was forked from. */
  async #read(name: string, from: number, limit: number): Promise<Chunk> {
    const own = await this.on<Chunk | Creation>(name, (stream) => (from < stream.base ? (stream.state.creation as Creation) : stream.read(from, limit)))
    if ('body' in own) return own
    const builder = new ChunkBuilder(isJson(own.type) ? comma : undefined)
    let position = from
    const readFrom = async (stream: Stream, end?: { readonly cap: number }): Promise<void> => {
      const { next, body } = await stream.read(position, limit - builder.bytes, end)
      if (body.length > 0) builder.add(body)
      position = next
    }
    for (const { from: source, id, at: cap } of await this.#sources(own.fork as Fork, from)) {
      // Also from a source that is deleted for everybody else.
      await this.#open.visit(source, (stream) => readFrom(sourceOf(stream, id), { cap }))
      if (builder.bytes >= limit) return builder.chunk(position)
    }
    await this.on(name, (stream) => readFrom(stream))
    return builder.chunk(position)
  }

  /** Where the records of a fork lie from a position on, before its own: the oldest first. */
  async #sources(fork: Fork, from: number): Promise<Fork[]> {
    const inherited = await this.#open.visit(fork.from, (stream) => {
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
      const seen = await this.#open.visit(name, (stream) =>
        stream?.state.creation === undefined ? undefined : { id: stream.id, forks: stream.state.forks, source: stream.state.creation.fork },
      )
      if (seen === undefined) return 'gone'
      const isRead = this.#forking.has(name) || (await this.#hasForks(name, seen))
      const outcome = await this.#open.visit(name, async (stream) => {
        if (stream?.state.creation === undefined) return 'gone'
        const isSame = stream.id === seen.id && String(stream.state.forks) === String(seen.forks)
        if (!isSame || (!isRead && this.#forking.has(name))) return 'changed'
        if (!condition(stream)) return 'alive'
        if (isRead) await stream.write({ judge: unlessDeleted, record: { deleted: true } })
        if (isRead) return 'kept'
        const forksMade = this.#forksMade
        await this.#open.remove(name, stream)
        this.#count -= 1
        return { forksMade }
      })
      if (outcome === 'changed') continue
      if (typeof outcome === 'string') return outcome
      if (seen.source !== undefined) await this.#release(seen.source, name, outcome)
      return 'gone'
    }
  }

  async #hasForks(name: string, { id, forks }: { readonly id: string; readonly forks: readonly string[] }): Promise<boolean> {
    for (const fork of forks) {
      const isThere = await this.#open.visit(fork, (stream) => {
        const { creation, isDeleted } = stream?.state ?? {}
        const isFork = creation?.fork?.from === name && creation.fork.id === id
        return isFork && (isDeleted === true || stream?.isExpired(Date.now()) === false || (stream?.state.forks.length ?? 0) > 0)
      })
      if (isThere) return true
    }
    return false
  }

  /** Drops the note of a fork that is gone, and then the source, if it was only kept for its forks. */
  async #release({ from, id }: Fork, name: string, { forksMade }: { readonly forksMade: number }): Promise<void> {
    const isDeleted = await this.#open.visit(from, async (stream) => {
      if (stream?.id !== id) return false
      // Meanwhile a new fork may have taken the name. A note too many does no harm.
      const isFree = !this.#forking.has(from) && forksMade === this.#forksMade
      if (isFree) await stream.write({ judge: () => undefined, record: { unfork: name } })
      return stream.state.isDeleted
    })
    if (isDeleted) await this.#collect(from, ({ state }) => state.isDeleted)
  }
}

const unlessThere: Change['judge'] = ({ creation }) => (creation === undefined ? undefined : { reason: 'exists' })

const unlessDeleted: Change['judge'] = ({ isDeleted }) => (isDeleted ? { reason: 'deleted' } : undefined)

/** Whether a stream is only there until its forks are gone. */
function isOver(stream: Stream): boolean {
  return stream.state.isDeleted || stream.isExpired(Date.now())
}

function sourceOf(stream: Stream | undefined, id: string): Stream {
  if (stream?.id === id) return stream
  throw new MiniStoreError('ERR_MINISTORE_FOREIGN_JOURNAL', 'The source of a fork is gone, or its journal is another one')
}

/** The content type of a stream whose PUT names none. */
const defaultType = 'application/octet-stream'

function joined(prefix: Data | undefined, data: Data | undefined, type: string): Data | undefined {
  if (prefix === undefined || data === undefined) return prefix ?? data
  if (isJson(type)) return jsonData(`${prefix.body.toString()},${data.body.toString()}`)
  return bytesAsData(Buffer.concat([prefix.body, data.body]))
}
