import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'

import { settledOrAborted } from '../async.ts'
import { hasCode, type MiniStoreError } from '../errors.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import { nodeFileSystem } from '../fs/node.ts'
import { type JournalOutline, outlineJournal } from '../maintenance/inspect.ts'
import { DiskSource } from '../ministore/view.ts'
import { CommandFailure } from './exit-codes.ts'

/**
 * Returns the outline of the journal at a path. Returns undefined if the file is still empty, as it
 * may be after a crash.
 *
 * @throws {CommandFailure} if there is no journal. Rejects with the signal's reason if the signal
 *   is aborted.
 */
export async function outlineOf(
  path: string,
  options: {
    readonly salvage?: ((damage: MiniStoreError) => void) | undefined
    readonly signal?: AbortSignal
  } = {},
): Promise<JournalOutline | undefined> {
  const { salvage, signal = new AbortController().signal } = options
  const source = new DiskSource(nodeFileSystem, path)
  const outline = await unlessAborted(signal, () => outlineJournal(nodeFileSystem, source, salvage))
  if (outline === undefined) await assertThere(path)
  return outline
}

/** @throws {CommandFailure} if there is nothing at the path. */
export async function assertThere(path: string): Promise<void> {
  try {
    await stat(path)
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error
    const advice = 'Give the path of its active segment, such as state/journal.jsonl'
    const message = `There is no journal at ${resolve(path)}. ${advice}`
    throw new CommandFailure(message, { cause: error })
  }
}

/**
 * Resolves with the result of `start`, or rejects with the signal's reason as soon as the signal is
 * aborted. The work continues unobserved until the process ends, so `start` must not change
 * anything.
 */
export async function unlessAborted<T>(signal: AbortSignal, start: () => Promise<T>): Promise<T> {
  signal.throwIfAborted()
  const work = start()
  await settledOrAborted(work, signal)
  return work
}

/**
 * Returns the file system of this machine, which reports the number of bytes of every read. Used
 * for progress bars.
 */
export function countingFileSystem(onRead: (bytes: number) => void): FileSystem {
  return {
    ...nodeFileSystem,
    open: async (...how) => new CountedFile(await nodeFileSystem.open(...how), onRead),
  }
}

class CountedFile implements File {
  readonly #file: File
  readonly #onRead: (bytes: number) => void

  constructor(file: File, onRead: (bytes: number) => void) {
    this.#file = file
    this.#onRead = onRead
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    const read = await this.#file.read(buffer, position)
    this.#onRead(read)
    return read
  }

  write(bytes: Uint8Array, position: number): number | Promise<number> {
    return this.#file.write(bytes, position)
  }

  truncate(length: number): Promise<void> {
    return this.#file.truncate(length)
  }

  sync(): Promise<void> {
    return this.#file.sync()
  }

  dataSync(): Promise<void> {
    return this.#file.dataSync()
  }

  stat(): ReturnType<File['stat']> {
    return this.#file.stat()
  }

  close(): Promise<void> {
    return this.#file.close()
  }
}
