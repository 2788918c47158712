import { type File, type FileSystem, isNotFound } from '../fs/file-system.ts'
import { JournalFiles } from './format.ts'
import { isSameSegment, type JournalView, readHeader, type Segment } from './segments.ts'

/**
 * Opens a segment of a view for reading. A writer may have sealed the active one since: then it is found under
 * the number that a rotation gives it. Undefined when it is gone, or has fewer bytes than in the view.
 */
export async function openSegment(
  fs: FileSystem,
  view: JournalView,
  segment: Segment,
): Promise<File | undefined> {
  const found = await openIfSame(fs, segment, segment.path)
  if (found !== undefined || segment.number !== undefined) return found
  const files = new JournalFiles(segment.path)
  const number = (view.segments.at(-2)?.number ?? 0) + 1
  return openIfSame(fs, segment, files.at(files.sealedName(number)))
}

async function openIfSame(fs: FileSystem, segment: Segment, path: string): Promise<File | undefined> {
  let file: File
  try {
    file = await fs.open(path, 'read')
  } catch (error) {
    if (isNotFound(error)) return undefined
    throw error
  }
  try {
    const { inode, size } = await file.stat()
    const header = await readHeader(file, { path, segment: segment.name }, () => {})
    if (header !== undefined && isSameSegment(segment, { inode, header }) && size >= segment.bytes)
      return file
  } catch (error) {
    await file.close().catch(() => {})
    throw error
  }
  await file.close()
  return undefined
}
