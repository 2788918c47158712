import { dirname } from 'node:path'

import { removeIfPresent } from '../fs/atomic-replace.ts'
import type { File, FileAccess, FileSystem } from '../fs/file-system.ts'
import { copyRange, isCopyOfRange } from '../fs/read-range.ts'
import type { JournalFiles } from './journal-files.ts'

/**
 * Keeps all bytes of a file under `<file>.broken`, `<file>.broken-2` …, and resolves with the name once the
 * copy is durable. No file that is there is overwritten; a copy that holds the same already, from a repair
 * that was cut short, is taken for this one.
 */
export async function keepBroken(fs: FileSystem, files: JournalFiles, name: string): Promise<string> {
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
  files: JournalFiles,
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
export function repairTemporary(files: JournalFiles): string {
  return `${files.path}.repair.tmp`
}
