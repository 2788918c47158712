import { dirname } from 'node:path'

import { copyRange, isCopyOfRange } from './bytes.ts'
import { isOutOfSpace, removeIfPresent, renameIntoPlace } from './durable.ts'
import type { File, FileAccess, FileSystem } from './file-system.ts'

/**
 * Where the files of a journal are, and how its evidence files are named. Implemented by
 * `JournalFiles`.
 *
 * **Invariant.** Recovery cuts a torn tail, and repair rewrites or removes a segment or seal, only
 * after a durable copy of its bytes exists. The only exception is a torn tail on a full disk, which
 * is cut without a copy. No copy ever overwrites an existing file.
 */
export interface EvidencePlace {
  /** Path of the active segment. */
  readonly path: string
  readonly directory: string
  /** Returns the path of a file with this name in the directory of the journal. */
  at(name: string): string
  /**
   * Returns the name for a torn tail that stands in the place of record `sequence`. `copy` starts
   * at 1 and grows while the name is taken.
   */
  tornName(sequence: number, copy: number): string
}

/**
 * Copies the bytes from `offset` to the end of the active segment into a separate file, as
 * evidence. Resolves with the name of the copy once the copy is durable. The caller must hold the
 * writer's lock, and cuts the tail afterwards.
 *
 * A crash in between leaves both the copy and the tail. The next recovery then finds the same bytes
 * again and makes no second copy. Existing files are never overwritten.
 *
 * Resolves with undefined if there is no space for a copy. The bytes were never acknowledged, and a
 * journal on a full disk must still open.
 */
export async function saveTornTail(
  fs: FileSystem,
  files: EvidencePlace,
  source: File,
  tail: { readonly offset: number; readonly bytes: number; readonly sequence: number },
): Promise<string | undefined> {
  const names = await fs.list(files.directory)
  for (let copy = 1; ; copy++) {
    const name = files.tornName(tail.sequence, copy)
    const path = files.at(name)
    if (!names.includes(name)) return (await copyTailIfRoom(fs, source, tail, path)) ? name : undefined
    if (await isCopyOfRange(fs, path, source, tail)) {
      // An earlier recovery made this copy and was interrupted. Its name may not be durable yet.
      await fs.syncDirectory(files.directory)
      return name
    }
  }
}

async function copyTailIfRoom(
  fs: FileSystem,
  source: File,
  tail: { readonly offset: number; readonly bytes: number },
  path: string,
): Promise<boolean> {
  try {
    const access = await source.stat()
    await renameIntoPlace(fs, path, { access, write: (target) => copyRange(source, target, tail) })
    await fs.syncDirectory(dirname(path))
    return true
  } catch (error) {
    if (isOutOfSpace(error)) return false
    throw error
  }
}

/**
 * Keeps all bytes of a file under `<file>.broken`, `<file>.broken-2` and so on. Resolves with the
 * name of the copy once the copy is durable. The caller must hold the writer's lock.
 *
 * Existing files are never overwritten. If an interrupted repair already made a copy with the same
 * bytes, this function reuses that copy.
 */
export async function keepBroken(fs: FileSystem, files: EvidencePlace, name: string): Promise<string> {
  const source = await fs.open(files.at(name), 'read')
  try {
    const access = await source.stat()
    const { size } = access
    const names = await fs.list(files.directory)
    for (let copy = 1; ; copy++) {
      const kept = `${name}.broken${copy === 1 ? '' : `-${copy}`}`
      if (!names.includes(kept)) {
        const write = (target: File): Promise<void> => copyRange(source, target, { offset: 0, bytes: size })
        await writeWhole(fs, files, kept, { access, write })
        return kept
      }
      if (await isCopyOfRange(fs, files.at(kept), source, { offset: 0, bytes: size })) {
        // An earlier repair made this copy and was interrupted. Its name may not be durable yet.
        await fs.syncDirectory(files.directory)
        return kept
      }
    }
  } finally {
    await source.close()
  }
}

/**
 * Writes a file of any length as a whole or not at all, and makes it durable under its name. Calls
 * must not overlap.
 *
 * A crash leaves at most the file at {@link repairTemporary}, which the next call replaces.
 */
export async function writeWhole(
  fs: FileSystem,
  files: EvidencePlace,
  name: string,
  content: { readonly access: FileAccess; readonly write: (target: File) => Promise<void> },
): Promise<void> {
  const temporary = repairTemporary(files)
  const path = files.at(name)
  await removeIfPresent(fs, temporary)
  try {
    const target = await fs.open(temporary, 'create', content.access)
    try {
      await content.write(target)
      await target.sync()
    } finally {
      await target.close()
    }
    await fs.rename(temporary, path)
  } catch (error) {
    // The temporary file may hold the last space of a full disk. If it cannot be removed now, the
    // next repair removes it.
    await removeIfPresent(fs, temporary).catch(() => false)
    throw error
  }
  await fs.syncDirectory(dirname(path))
}

/** Returns the path where a repair writes a file before the file gets its final name. */
export function repairTemporary(files: EvidencePlace): string {
  return `${files.path}.repair.tmp`
}
