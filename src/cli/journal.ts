import type { Stats } from 'node:fs'
import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'

import { MiniStoreError } from '../errors.ts'
import { isNotFound } from '../fs/file-system.ts'
import { nodeFileSystem } from '../fs/node-file-system.ts'
import { DiskSource } from '../ministore/disk-source.ts'
import { type JournalOutline, outlineJournal } from '../ministore/journal-outline.ts'
import { CommandFailure } from './exit-codes.ts'
import { unlessAborted } from './unless-aborted.ts'

/**
 * How the journal at a path stands; undefined for a file that is still empty, as a crash may leave one.
 *
 * @throws {CommandFailure} when there is none; the signal's reason when it is aborted meanwhile.
 */
export async function outlineOf(
  path: string,
  options: {
    readonly salvage?: ((damage: MiniStoreError) => void) | undefined
    readonly signal?: AbortSignal
  } = {},
): Promise<JournalOutline | undefined> {
  const { salvage, signal = new AbortController().signal } = options
  const source = new DiskSource(nodeFileSystem, path, { salvage })
  const outline = await unlessAborted(signal, () => outlineJournal(nodeFileSystem, source))
  if (outline === undefined) await assertThere(path)
  return outline
}

/**
 * Looks at the path of a journal before anything opens it: whoever opens a FIFO waits for one that writes to it, and
 * many a device has no end. Of directories, and of paths that lead nowhere, the commands tell themselves.
 *
 * @throws {MiniStoreError} for what can hold no journal.
 */
export async function assertNoDevice(path: string): Promise<void> {
  let found: Stats
  try {
    found = await stat(path)
  } catch {
    // Whatever it is, it comes back when the journal is opened, with all that can be said of it.
    return
  }
  const kind = kindOf(found)
  if (kind === undefined) return
  const place = resolve(path)
  throw new MiniStoreError('ERR_MINISTORE_IO', `Expected a journal file at ${place}, got a ${kind}`, { path: place })
}

function kindOf(found: Stats): string | undefined {
  if (found.isFIFO()) return 'FIFO'
  if (found.isSocket()) return 'socket'
  if (found.isCharacterDevice()) return 'character device'
  return found.isBlockDevice() ? 'block device' : undefined
}

/** @throws {CommandFailure} unless there is something at the path. */
export async function assertThere(path: string): Promise<void> {
  try {
    await stat(path)
  } catch (error) {
    if (!isNotFound(error)) throw error
    const advice = 'Give the path of its active segment, such as state/journal.jsonl'
    const message = `There is no journal at ${resolve(path)}. ${advice}`
    throw new CommandFailure(message, { cause: error })
  }
}
