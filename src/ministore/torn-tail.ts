import { dirname } from 'node:path'

import { removeIfPresent, temporarySuffix, writeFully } from '../fs/atomic-replace.ts'
import type { File, FileSystem } from '../fs/file-system.ts'
import { rangeChunkBytes, readFully, readRange } from '../fs/read-range.ts'
import type { JournalFiles } from './journal-files.ts'

/**
 * Moves the bytes from `offset` to the end of the active segment into a file of their own, as evidence, and
 * resolves with its name once both are durable.
 *
 * The copy is whole and durable before anything is cut. A crash in between leaves copy and tail; the next recovery
 * finds the same bytes again and makes no second copy. No file that is there is ever overwritten.
 */
export async function removeTornTail(
  fs: FileSystem,
  files: JournalFiles,
  file: File,
  tail: { readonly offset: number; readonly bytes: number; readonly sequence: number },
): Promise<string> {
  const name = await saveTail(fs, files, file, tail)
  await file.truncate(tail.offset)
  await file.sync()
  return name
}

async function saveTail(
  fs: FileSystem,
  files: JournalFiles,
  source: File,
  tail: { readonly offset: number; readonly bytes: number; readonly sequence: number },
): Promise<string> {
  const names = await fs.list(files.directory)
  for (let copy = 1; ; copy++) {
    const name = files.tornName(tail.sequence, copy)
    const path = files.at(name)
    if (!names.includes(name)) {
      await copyTail(fs, source, tail, path)
      return name
    }
    if (await holdsSame(fs, source, tail, path)) {
      // From a recovery that was cut short; its name may not be durable yet.
      await fs.syncDirectory(files.directory)
      return name
    }
  }
}

async function copyTail(
  fs: FileSystem,
  source: File,
  tail: { readonly offset: number; readonly bytes: number },
  path: string,
): Promise<void> {
  const temporary = path + temporarySuffix
  await removeIfPresent(fs, temporary)
  const target = await fs.open(temporary, 'create')
  try {
    for await (const { bytes, position } of readRange(source, tail)) await writeFully(target, bytes, position)
    await target.sync()
  } finally {
    await target.close()
  }
  await fs.rename(temporary, path)
  await fs.syncDirectory(dirname(path))
}

async function holdsSame(
  fs: FileSystem,
  source: File,
  tail: { readonly offset: number; readonly bytes: number },
  path: string,
): Promise<boolean> {
  const evidence = await fs.open(path, 'read')
  try {
    if ((await evidence.stat()).size !== tail.bytes) return false
    const same = Buffer.alloc(rangeChunkBytes)
    for await (const { bytes, position } of readRange(source, tail)) {
      const other = same.subarray(0, bytes.length)
      await readFully(evidence, other, position)
      if (!other.equals(bytes)) return false
    }
    return true
  } finally {
    await evidence.close()
  }
}
