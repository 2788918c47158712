/**
 * Copies of the bytes that recovery or repair takes out of a journal.
 *
 * **Invariant.** Recovery cuts a torn tail, and repair rewrites or removes a segment or seal, only
 * after a durable copy of its bytes exists. The only exception is a torn tail on a full disk, which
 * is cut without a copy. No copy ever overwrites an existing file.
 */
import { join } from 'node:path'

import { copyRange, isCopyOfRange } from './bytes.ts'
import { isOutOfSpace, renameIntoPlace } from './durable.ts'
import type { File, FileSystem } from './file-system.ts'

/** Where a copy goes, and its possible names. */
export interface EvidencePlace {
  readonly directory: string
  /** `copy` starts at 1 and grows while the name is taken. */
  readonly nameOf: (copy: number) => string
}

/**
 * Copies the torn tail of a segment. Resolves with the name of the copy once the copy is durable.
 * The caller must hold the writer's lock, and cuts the tail afterwards.
 *
 * Resolves with undefined if there is no space for a copy. The bytes were never acknowledged, and a
 * journal on a full disk must still open.
 */
export async function saveTornTail(
  fs: FileSystem,
  source: File,
  tail: { readonly offset: number; readonly bytes: number },
  place: EvidencePlace,
): Promise<string | undefined> {
  try {
    return await keepCopy(fs, source, tail, place)
  } catch (error) {
    if (isOutOfSpace(error)) return undefined
    throw error
  }
}

/**
 * Copies a whole file to `<file>.broken`, `<file>.broken-2` and so on. Resolves with the name of
 * the copy once the copy is durable. The caller must hold the writer's lock.
 */
export async function keepBroken(fs: FileSystem, directory: string, name: string): Promise<string> {
  const source = await fs.open(join(directory, name), 'read')
  try {
    const { size: bytes } = await source.stat()
    const nameOf = (copy: number): string => `${name}.broken${copy === 1 ? '' : `-${copy}`}`
    return await keepCopy(fs, source, { offset: 0, bytes }, { directory, nameOf })
  } finally {
    await source.close()
  }
}

/**
 * Copies a range of a file to the first name that is free, unless a file at an earlier name is such
 * a copy. So a crash between the copy and what follows it does not lead to a second copy.
 */
async function keepCopy(
  fs: FileSystem,
  source: File,
  range: { readonly offset: number; readonly bytes: number },
  { directory, nameOf }: EvidencePlace,
): Promise<string> {
  const names = await fs.list(directory)
  for (let copy = 1; ; copy++) {
    const name = nameOf(copy)
    const path = join(directory, name)
    if (!names.includes(name)) {
      const access = await source.stat()
      await renameIntoPlace(fs, path, { access, write: (target) => copyRange(source, target, range) })
    } else if (!(await isCopyOfRange(fs, path, source, range))) continue
    // The name of an earlier copy may not be durable either.
    await fs.syncDirectory(directory)
    return name
  }
}
