import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'

import type { MiniStoreError } from '../errors.ts'
import { isNotFound } from '../fs/file-system.ts'
import { nodeFileSystem } from '../fs/node.ts'
import { DiskSource } from '../ministore/view.ts'
import { type JournalOutline, outlineJournal } from '../maintenance/inspect.ts'
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
  const source = new DiskSource(nodeFileSystem, path)
  const outline = await unlessAborted(signal, () => outlineJournal(nodeFileSystem, source, salvage))
  if (outline === undefined) await assertThere(path)
  return outline
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
