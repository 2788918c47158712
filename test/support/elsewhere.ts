import type { FileSystem } from '../../src/index.ts'

/**
 * The same disk as another process sees it. Writers are found by file system object, so a reader on
 * this one never finds a writer and reads the disk.
 */
export function elsewhere(files: FileSystem): FileSystem {
  return {
    open: (path, mode, access) => files.open(path, mode, access),
    list: (directory) => files.list(directory),
    stat: (path) => files.stat(path),
    realPath: (path) => files.realPath(path),
    rename: (from, to) => files.rename(from, to),
    unlink: (path) => files.unlink(path),
    makeDirectory: (path) => files.makeDirectory(path),
    syncDirectory: (directory) => files.syncDirectory(directory),
    lock: (file) => files.lock(file),
    watch: (directory, onChange) => files.watch(directory, onChange),
  }
}
