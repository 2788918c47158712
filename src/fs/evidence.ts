import { dirname } from 'node:path'

import { copyRange, isCopyOfRange } from './bytes.ts'
import { isOutOfSpace, removeIfPresent, renameIntoPlace } from './durable.ts'
import type { File, FileAccess, FileSystem } from './file-system.ts'

/** Where the files of a journal lie, and what its evidence is called: a `JournalFiles`. */
export interface EvidencePlace {
  /** Of the active segment. */
  readonly path: string
  readonly directory: string
  /** The path of a file of this name beside the journal. */
  at(name: string): string
  tornName(sequence: number, copy: number): string
}

/**
 * Copies the bytes from `offset` to the end of the active segment into a file of their own, as evidence, and resolves
 * with its name once the copy is durable. The caller cuts them afterwards.
 *
 * A crash in between leaves copy and tail; the next recovery finds the same bytes again and makes no second copy. No
 * file that is there is ever overwritten. Undefined when there is no room for a copy: the bytes were never
 * acknowledged, and a full disk must be openable.
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
      // From a recovery that was cut short; its name may not be durable yet.
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
 * Keeps all bytes of a file under `<file>.broken`, `<file>.broken-2` …, and resolves with the name once the
 * copy is durable. No file that is there is overwritten; a copy that holds the same already, from a repair
 * that was cut short, is taken for this one.
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
        // Its name may not be durable yet.
        await fs.syncDirectory(files.directory)
        return kept
      }
    }
  } finally {
    await source.close()
  }
}

/**
 * Puts a file in place, whole or not at all and durably, whatever its length. A crash leaves at most
 * {@link repairTemporary}, which the next call replaces.
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
    // It may hold the last space of a full disk. What cannot be removed now the next repair removes.
    await removeIfPresent(fs, temporary).catch(() => false)
    throw error
  }
  await fs.syncDirectory(dirname(path))
}

/** Where a repair makes a file before it gets its name. */
export function repairTemporary(files: EvidencePlace): string {
  return `${files.path}.repair.tmp`
}
