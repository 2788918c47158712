import { createHash } from 'node:crypto'
import { join, resolve } from 'node:path'

import PQueue from 'p-queue'

import { addInContext } from '../async.ts'
import { ioError } from '../errors.ts'
import { ensureDirectory } from '../fs/durable.ts'
import { WriterLock } from '../fs/lock.ts'
import { tryAgain } from './record.ts'
import type { HttpSettings } from './settings.ts'
import { Waiters } from './source.ts'
import { Stream } from './stream.ts'

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
 * The streams of a directory whose journals are open.
 *
 * **Invariant.** At most `maxOpenStreams` journals are open, each once. A journal is closed only while no
 * request uses it, and no request uses one that is being opened, closed or removed.
 */
export class OpenStreams {
  readonly #directory: string
  readonly #settings: HttpSettings
  readonly #lock: WriterLock
  readonly #entries = new Map<string, Entry>()
  /** Entries whose journal is open or being opened, the one used least recently first. */
  readonly #open = new Set<Entry>()
  /** At most so many requests use a journal at once. So when another is to be opened, one is idle. */
  readonly #slots: PQueue
  #isClosing = false

  private constructor(directory: string, settings: HttpSettings, lock: WriterLock) {
    this.#directory = directory
    this.#settings = settings
    this.#lock = lock
    this.#slots = new PQueue({ concurrency: settings.maxOpenStreams })
  }

  /** Creates and locks the directory. Opens no stream. */
  static async at(given: string, settings: HttpSettings): Promise<OpenStreams> {
    const directory = resolve(given)
    const path = join(directory, lockName)
    const { fileSystem, lock: kernel } = settings
    try {
      await ensureDirectory(fileSystem, directory)
      const lock = await WriterLock.acquire(fileSystem, path, { kernel, holder: {}, journalPath: path, access: undefined })
      return new OpenStreams(directory, settings, lock)
    } catch (error) {
      throw ioError(`open the streams in ${directory}`, error, { path: directory })
    }
  }

  /** Resolves with the paths of the directories of all streams, and of some that are no longer there. */
  async directories(): Promise<string[]> {
    const names = await this.#settings.fileSystem.list(this.#directory)
    return names.filter((name) => name.startsWith('+')).map((name) => join(this.#directory, name))
  }

  /**
   * Opens the journal of a name, unless it is open, and keeps it open for the work. The work must not
   * visit another stream: all requests could then wait for each other.
   *
   * @param options.create Creates the journal. Otherwise the work gets undefined if there is none.
   */
  async visit<T>(
    name: string,
    work: (stream: Stream | undefined) => Promise<T> | T,
    { create = false }: { readonly create?: boolean } = {},
  ): Promise<T> {
    if (this.#isClosing) throw tryAgain(503, 'The server is closing')
    return await addInContext(this.#slots, async () => {
      const entry = this.#entry(name)
      entry.users += 1
      try {
        const { stream } = entry
        const isReady = stream?.isUnusable === false
        return await work(isReady ? stream : await inTurn(entry, () => this.#opened(entry, create)))
      } finally {
        entry.users -= 1
        // The end of a set is what was used last.
        if (this.#open.delete(entry)) this.#open.add(entry)
        this.#forget(entry)
      }
    })
  }

  /** The readers that wait for a stream. They do not keep its journal open. */
  waitersOf(name: string): { readonly waiters: Waiters; readonly release: () => void } {
    const entry = this.#entry(name)
    entry.pins += 1
    const release = (): void => {
      entry.pins -= 1
      this.#forget(entry)
    }
    return { waiters: entry.waiters, release }
  }

  /** Deletes a stream with its files, durably, and wakes its readers. Must be called by its visitor. */
  async remove(name: string, stream: Stream): Promise<void> {
    const entry = this.#entry(name)
    await inTurn(entry, async () => {
      if (entry.stream !== stream) return
      await stream.remove()
      entry.stream = undefined
      this.#open.delete(entry)
    })
    entry.waiters.wake()
  }

  /** Wakes all readers, waits for all work, closes all journals and frees the lock. */
  async close(): Promise<void> {
    this.#isClosing = true
    for (const { waiters } of this.#entries.values()) waiters.wake()
    await this.#slots.onIdle()
    const closed = await Promise.allSettled([...this.#open].map((entry) => this.#shut(entry)))
    await this.#lock.release()
    for (const outcome of closed) if (outcome.status === 'rejected') throw outcome.reason
  }

  async #opened(entry: Entry, create: boolean): Promise<Stream | undefined> {
    if (entry.stream?.isUnusable === false) return entry.stream
    // It failed. Opening it again tells what it holds.
    if (entry.stream !== undefined) await this.#shutInTurn(entry).catch(() => {})
    this.#open.add(entry)
    try {
      while (this.#open.size > this.#settings.maxOpenStreams) await this.#shut(this.#leastRecent())
      entry.stream = await Stream.open(join(this.#directory, directoryName(entry.name)), this.#settings, { create })
    } finally {
      if (entry.stream === undefined) this.#open.delete(entry)
    }
    const { stream } = entry
    if (stream !== undefined) stream.onChange = () => entry.waiters.wake()
    return stream
  }

  /** There is one: those in use, with the one that is to be opened, are no more than there are slots. */
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
    if (stream?.isUnusable === false && stream.state.creation === undefined) await stream.remove()
    else await stream?.close()
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
}

/** Runs a task after all that open or close the same journal. */
function inTurn<T>(entry: Entry, task: () => Promise<T>): Promise<T> {
  const done = entry.turn.then(task)
  entry.turn = done.catch(() => {})
  return done
}

/** Longest name of a directory, in characters: file systems take 255 bytes. */
const maxDirectoryName = 200

/**
 * The directory of a stream: its name with `+` before it and for each slash, and with `=` and two
 * hexadecimal digits for each character but lower-case letters, digits, `-` and `_`. So different names
 * have different directories even where upper and lower case are the same, and none means anything to
 * a file system. A long name ends in its SHA-256.
 *
 * @param name as in a URL, so of ASCII characters.
 */
export function directoryName(name: string): string {
  const encoded = `+${name.replace(/[^a-z0-9_-]/g, (character) =>
    character === '/' ? '+' : `=${character.charCodeAt(0).toString(16).padStart(2, '0')}`)}`
  if (encoded.length <= maxDirectoryName) return encoded
  return `${encoded.slice(0, 100)}=-${createHash('sha256').update(name).digest('hex')}`
}
