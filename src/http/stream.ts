import { join } from 'node:path'

import { tell } from '../async.ts'
import { hasCode } from '../errors.ts'
import { ifPresent, listIfPresent, removeIfPresent } from '../fs/durable.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { SnapStore } from '../minisnap/index.ts'
import { refuseLostJournal } from '../ministate/recovery.ts'
import { StateManager } from '../ministate/state-manager.ts'
import { JournalFiles } from '../ministore/format.ts'
import { fileSystemOf, MiniStore } from '../ministore/ministore.ts'
import type { Codec, SerializedRecord } from '../schema.ts'
import {
  type Data, dataIn, draftOf, emptyState, fold, isJson, type Refusal, serialize, type StreamRecord, type StreamState,
  tryAgain,
} from './record.ts'
import type { HttpSettings } from './settings.ts'
import { type Chunk, ChunkBuilder, comma, type Look, NoStream, SharedRead } from './source.ts'

/** File name of the journal in the directory of a stream. */
export const journalName = 'journal.jsonl'

/** While this file is in the directory of a stream, the stream does not exist. */
const deletedName = 'deleted'

/** A record, as it is written. */
type Line = SerializedRecord<StreamRecord>

/**
 * A read finds its place by counting lines from the beginning of a segment, so these are small (4 MiB).
 * That is as much as a request reads by default.
 */
const maxBytesPerSegment = 4 * 1024 * 1024

/**
 * Takes records as they are serialized. With a codec, `bytes()` parses no line, which would take most of
 * the time of a read.
 */
const codec: Codec<Line, StreamRecord> = {
  encode: ({ text }) => text,
  decode: (line) => JSON.parse(line) as StreamRecord,
}

/** A change that waits for its turn. */
export interface Change {
  /** Judges the change against the state that all earlier changes make. Undefined if it may be written. */
  readonly judge: (state: StreamState) => Refusal | undefined
  readonly record: StreamRecord
  readonly data?: Data | undefined
}

/** What became of a change. How the stream stood right after it. */
export interface Written {
  /** Why nothing was written. */
  readonly refusal: Refusal | undefined
  readonly tail: number
  readonly isClosed: boolean
}

interface Pending extends Change {
  readonly bytes: number
  readonly resolve: (written: Written) => void
  readonly reject: (error: unknown) => void
}

/** Changes that are written together at most, and their bytes. */
const maxBatch = 512
const maxBatchBytes = 8 * 1024 * 1024

/** Bytes of all changes that may wait for one stream. */
const maxPendingBytes = 64 * 1024 * 1024

/** A snapshot is made after this many records, or bytes of messages. */
const snapshotRecords = 10_000
const snapshotBytes = 32 * 1024 * 1024

/** Largest chunk that is kept in memory for readers that wait for it. */
const maxRecentBytes = 64 * 1024

/**
 * One open stream: its journal, and the small state that the journal folds to.
 *
 * **Invariant.** A change is told of, to its sender or to a reader, only once it is durable. Changes that
 * come together are judged in order, each against the state with all those before it, and written with
 * one fsync. If that fails, none of them counts as written, and none is refused because of another.
 */
export class Stream {
  readonly #directory: string
  readonly #settings: HttpSettings
  readonly #journal: MiniStore<StreamRecord, Line>
  readonly #manager: StateManager<StreamState, StreamRecord, Line>
  readonly #pending: Pending[] = []
  #pendingBytes = 0
  #writing: Promise<void> | undefined
  #sinceSnapshot = { records: 0, bytes: 0 }
  #recent: { readonly from: number; readonly chunk: Chunk } | undefined
  readonly #shared = new SharedRead()
  #accessed: number | undefined
  #isGone = false
  #isBroken = false
  /** Called after every batch. */
  onChange: () => void = () => {}

  private constructor(parts: {
    readonly directory: string
    readonly settings: HttpSettings
    readonly journal: MiniStore<StreamRecord, Line>
    readonly manager: StateManager<StreamState, StreamRecord, Line>
  }) {
    this.#directory = parts.directory
    this.#settings = parts.settings
    this.#journal = parts.journal
    this.#manager = parts.manager
  }

  /**
   * Opens the stream in a directory. Resolves with undefined if there is none, unless `create` is set.
   * First finishes a deletion that a crash has interrupted.
   */
  static async open(
    directory: string,
    settings: HttpSettings,
    { create }: { readonly create: boolean },
  ): Promise<Stream | undefined> {
    const { fileSystem, lock } = settings
    const path = join(directory, journalName)
    let names = await listIfPresent(fileSystem, directory)
    if (names.includes(deletedName)) {
      await removeFiles(fileSystem, directory)
      names = []
    }
    const files = new JournalFiles(path)
    const isThere = names.some((name) => name === files.name || files.sealedNumber(name) !== undefined)
    if (!isThere && names.length > 0) await refuseLostJournal(fileSystem, path, new SnapStore(directory, { fileSystem }))
    if (!isThere && !create) return undefined
    // Base64 takes a third more. The rest of a record is a few headers.
    const maxRecordBytes = Math.ceil(settings.maxBodyBytes * 1.4) + 64 * 1024
    const options = { maxBytesPerSegment, maxRecordBytes, lock, fileSystem, codec: codec as Codec<Line, never> }
    const journal: MiniStore<StreamRecord, Line> = await MiniStore.open(path, options)
    try {
      const snapshots = new SnapStore<StreamState>(directory, { fileSystem: fileSystemOf(journal), keep: 1 })
      const manager = await StateManager.over(journal, snapshots, { initialState: emptyState, mutator: fold, codec: codec as Codec<Line, never> })
      return new Stream({ directory, settings, journal, manager })
    } catch (error) {
      // The first error is the one to report.
      await journal.close().catch(() => {})
      throw error
    }
  }

  get state(): Readonly<StreamState> {
    return this.#manager.state
  }

  get id(): string {
    return this.#journal.id ?? ''
  }

  /** The position before the first record of this journal. */
  get base(): number {
    return this.state.creation?.fork?.at ?? 0
  }

  /** Whether it must be closed, and opened again. */
  get isUnusable(): boolean {
    return this.#isBroken || this.#isGone
  }

  /** Whether its time is over. After a restart, it lives on for as long as reads may have prolonged it. */
  isExpired(now: number): boolean {
    const { creation, touched } = this.state
    if (creation?.expires !== undefined && creation.expires <= now) return true
    if (creation?.ttl === undefined) return false
    const since = this.#accessed === undefined ? touched + touchMs(creation.ttl) : Math.max(touched, this.#accessed)
    return since + creation.ttl * 1000 <= now
  }

  /** Prolongs the life of a stream with a time to live. Seldom writes anything. */
  touch(): void {
    const { creation, touched, isDeleted } = this.state
    if (creation?.ttl === undefined || isDeleted) return
    const now = Date.now()
    this.#accessed = now
    if (now - touched < touchMs(creation.ttl)) return
    this.write({ judge: () => undefined, record: { at: now } }).catch((error: unknown) => tell(this.#settings.onError, error))
  }

  look(): Look {
    const { creation, isClosed } = this.#existing()
    const { type, ttl, expires } = creation
    return { id: this.id, type, first: 0, tail: this.#tailOf(this.state), isClosed, ttl, expires }
  }

  /**
   * Writes a change when its turn comes. Resolves once it is durable, or once all that it was judged by
   * is.
   *
   * @throws {Problem} if too much waits already.
   * @throws {NoStream} if the stream is deleted meanwhile.
   * @throws {MiniStoreError} the errors of `StateManager.applyAll`.
   */
  write(change: Change): Promise<Written> {
    const bytes = (change.data?.property.length ?? 0) + 1024
    return new Promise((resolve, reject) => {
      if (this.#isGone) throw new NoStream(false)
      if (this.#pendingBytes + bytes > maxPendingBytes) throw tryAgain(503, 'Too many bytes wait to be written to this stream')
      this.#pendingBytes += bytes
      this.#pending.push({ ...change, bytes, resolve, reject })
      this.#writing ??= this.#writeAll().finally(() => {
        this.#writing = undefined
      })
    })
  }

  /**
   * Reads the messages after a position of this journal.
   *
   * @param end.cap the last position that may be read.
   */
  async read(from: number, limit: number, end: { readonly cap?: number } = {}): Promise<Chunk> {
    if (end.cap === undefined && this.#recent?.from === from) return this.#recent.chunk
    const to = Math.min(this.#tailOf(this.#existing()), end.cap ?? Number.POSITIVE_INFINITY)
    if (from >= to) return { next: Math.max(from, end.cap ?? from), body: Buffer.alloc(0) }
    const start = (): Promise<Chunk> => this.#read(from, to, limit)
    // Others may not share a read that ends before the tail.
    return await (end.cap === undefined && limit === this.#settings.maxChunkBytes ? this.#shared.read(from, start) : start())
  }

  /** Waits for what is being written, and frees the journal. */
  async close(): Promise<void> {
    await this.#writing
    await this.#manager.close()
  }

  /**
   * Deletes the stream with its files. When it resolves, the deletion is durable. A crash before that
   * leaves the stream as it was, or no stream; what it leaves of the files is removed by the next open.
   */
  async remove(): Promise<void> {
    this.#isGone = true
    for (const { reject } of this.#pending.splice(0)) reject(new NoStream(false))
    await this.#writing
    // What it would write is deleted anyway.
    await this.#manager.close().catch(() => {})
    const { fileSystem } = this.#settings
    const marker = await ifPresent(fileSystem.open(join(this.#directory, deletedName), 'ensure'))
    // Something else has removed the directory.
    if (marker === undefined) return
    await marker.close()
    await fileSystem.syncDirectory(this.#directory)
    await removeFiles(fileSystem, this.#directory)
  }

  #existing(): StreamState & { readonly creation: NonNullable<StreamState['creation']> } {
    const { state } = this
    if (this.#isGone || state.creation === undefined) throw new NoStream(false)
    return state as StreamState & { readonly creation: NonNullable<StreamState['creation']> }
  }

  #tailOf({ creation, tail }: Readonly<StreamState>): number {
    return (creation?.fork?.at ?? 0) + tail
  }

  async #read(from: number, to: number, limit: number): Promise<Chunk> {
    const { type } = this.#existing().creation
    const { base } = this
    const builder = new ChunkBuilder(isJson(type) ? comma : undefined)
    let sequence = from - base
    for await (const block of this.#journal.bytes({ from: sequence + 1, to: to - base })) {
      const lines = Buffer.from(block.buffer, block.byteOffset, block.byteLength)
      for (let at = 0; at < lines.length; ) {
        const end = lines.indexOf(lineFeed, at)
        const data = dataIn(lines.subarray(at, end), type)
        sequence += 1
        if (data !== undefined) builder.add(data)
        if (builder.bytes >= limit) return builder.chunk(base + sequence)
        at = end + 1
      }
    }
    return builder.chunk(to)
  }

  async #writeAll(): Promise<void> {
    while (this.#pending.length > 0 && !this.#isGone) {
      const batch = this.#nextBatch()
      try {
        const { lines, outcomes, keep } = this.#judge(batch)
        if (lines.length > 0) await this.#manager.applyAll(lines)
        keep()
        for (const [index, { resolve }] of batch.entries()) resolve(outcomes[index] as Written)
        if (lines.length > 0) this.onChange()
        await this.#snapshotIfDue(lines)
      } catch (error) {
        // Those refused were refused because of what was not written, or may have been.
        for (const { reject } of batch) reject(error)
        this.#isBroken ||= hasCode(error, ...fatal)
        if (this.#isBroken) for (const { reject } of this.#pending.splice(0)) reject(error)
      }
    }
  }

  /** Judges changes in order. `keep` must be called once they are durable. */
  #judge(batch: readonly Pending[]): { readonly lines: Line[]; readonly outcomes: Written[]; readonly keep: () => void } {
    const draft = draftOf(this.state)
    const from = this.#tailOf(draft)
    let sequence = this.#manager.sequence
    const lines: Line[] = []
    const bodies: Buffer[] = []
    const outcomes = batch.map(({ judge, record, data }): Written => {
      const refusal = judge(draft)
      if (refusal === undefined) {
        const timed = (record.create ?? draft.creation)?.ttl === undefined ? record : { ...record, at: Date.now() }
        const line = serialize(timed, data)
        lines.push(line)
        fold(draft, line.value, { sequence: (sequence += 1) })
        if (data !== undefined) bodies.push(data.body)
      }
      return { refusal, tail: this.#tailOf(draft), isClosed: draft.isClosed }
    })
    return { lines, outcomes, keep: () => this.#keepRecent(from, bodies) }
  }

  #nextBatch(): Pending[] {
    let bytes = 0
    const isOver = this.#pending.findIndex((change) => (bytes += change.bytes) > maxBatchBytes)
    const batch = this.#pending.splice(0, Math.min(maxBatch, isOver === -1 ? maxBatch : Math.max(isOver, 1)))
    for (const change of batch) this.#pendingBytes -= change.bytes
    return batch
  }

  #keepRecent(from: number, bodies: readonly Buffer[]): void {
    const { creation } = this.state
    if (bodies.length === 0 || creation === undefined) return
    const builder = new ChunkBuilder(isJson(creation.type) ? comma : undefined)
    for (const body of bodies) builder.add(body)
    const isSmall = builder.bytes <= Math.min(maxRecentBytes, this.#settings.maxChunkBytes)
    this.#recent = isSmall ? { from, chunk: builder.chunk(this.#tailOf(this.state)) } : undefined
  }

  async #snapshotIfDue(lines: ReadonlyArray<Line>): Promise<void> {
    const since = this.#sinceSnapshot
    since.records += lines.length
    for (const { text } of lines) since.bytes += text.length
    if (since.records < snapshotRecords && since.bytes < snapshotBytes) return
    this.#sinceSnapshot = { records: 0, bytes: 0 }
    // The messages are durable anyway. Without the snapshot, the next open takes longer.
    await this.#manager.createSnapshot().catch((error: unknown) => tell(this.#settings.onError, error))
  }
}

const lineFeed = 0x0a

/** Errors after which a journal takes no more records. Opening it again tells what it holds. */
const fatal = [
  'ERR_MINISTORE_OUTCOME_UNKNOWN', 'ERR_MINISTORE_POISONED', 'ERR_MINISTORE_MOVED', 'ERR_MINISTORE_MUTATOR',
  'ERR_MINISTORE_CLOSED',
] as const

/** The time of the last access is written this often at most, in milliseconds. */
function touchMs(ttl: number): number {
  return Math.max(1000, (ttl * 1000) / 8)
}

/** Removes the files of a stream that is marked as deleted, the mark last. */
async function removeFiles(fs: FileSystem, directory: string): Promise<void> {
  for (const name of await fs.list(directory)) if (name !== deletedName) await removeIfPresent(fs, join(directory, name))
  await fs.syncDirectory(directory)
  await removeIfPresent(fs, join(directory, deletedName))
  // Something else may have put a file there. An empty directory is no stream.
  await fs.removeDirectory?.(directory).catch(() => {})
}
