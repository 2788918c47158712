import type { File, Operation, SimulatedFileSystem } from '../../../src/testing/index.ts'

/**
 * Makes a file system do less than its port promises, as if the library had forgotten to ask for
 * it.
 */
export type Sabotage = (files: SimulatedFileSystem) => void

/**
 * Skips a directory sync if the name changes since the previous sync match. Pending changes then
 * stay pending until the next sync that is not skipped.
 */
export function withoutDirectorySync(isLeftOut: (changes: readonly Operation[]) => boolean): Sabotage {
  return (files) => {
    let changes: Operation[] = []
    files.onOperation((operation) => {
      if (changesNames(operation)) changes.push(operation)
    })
    const syncDirectory = files.syncDirectory.bind(files)
    files.syncDirectory = (directory) => {
      const since = changes
      changes = []
      return isLeftOut(since) ? Promise.resolve() : syncDirectory(directory)
    }
  }
}

function changesNames({ operation, mode }: Operation): boolean {
  if (operation === 'open') return mode === 'create' || mode === 'ensure'
  return operation === 'makeDirectory' || operation === 'rename' || operation === 'unlink'
}

/** Replaces methods of every opened file. `change` gets the original methods, bound to the file. */
export function withFiles(change: (file: Bound) => Partial<File>): Sabotage {
  return (files) => {
    const open = files.open.bind(files)
    files.open = async (path, mode) => {
      const file = await open(path, mode)
      // The file is changed in place, since the simulated lock accepts only files of its own file
      // system.
      return Object.assign(file, change(bound(file)))
    }
  }
}

type Bound = Pick<File, 'read' | 'write' | 'truncate' | 'sync' | 'dataSync' | 'close'>

function bound(file: File): Bound {
  return {
    read: file.read.bind(file),
    write: file.write.bind(file),
    truncate: file.truncate.bind(file),
    sync: file.sync.bind(file),
    dataSync: file.dataSync.bind(file),
    close: file.close.bind(file),
  }
}

/**
 * `dataSync` resolves at once. The sync runs before the next call that changes or closes the file.
 */
export const acknowledgesFirst: Sabotage = withFiles(({ write, truncate, sync, dataSync, close }) => {
  let isDue = false
  const settle = async (): Promise<void> => {
    if (!isDue) return
    isDue = false
    await dataSync()
  }
  return {
    dataSync: () => {
      isDue = true
      return Promise.resolve()
    },
    write: (bytes, position) =>
      isDue ? settle().then(() => write(bytes, position)) : write(bytes, position),
    truncate: (length) => settle().then(() => truncate(length)),
    sync: () => settle().then(() => sync()),
    close: () => settle().then(() => close()),
  }
})

/** A failed sync is tried once more. */
export const retriesSync: Sabotage = withFiles(({ sync, dataSync }) => ({
  sync: () => sync().catch(() => sync()),
  dataSync: () => dataSync().catch(() => dataSync()),
}))

/** A short write is reported as complete. */
export const endsShortWrites: Sabotage = withFiles(({ write }) => ({
  write: (bytes, position) => {
    const written = write(bytes, position)
    return typeof written === 'number' ? bytes.length : written.then(() => bytes.length)
  },
}))

/** A failed read is reported as the end of the file. */
export const readsErrorsAsEnd: Sabotage = withFiles(({ read }) => ({
  read: (buffer, position) => read(buffer, position).catch(() => 0),
}))

/** Every attempt to lock succeeds. */
export const locksNothing: Sabotage = (files) => {
  files.lock = () => Promise.resolve(true)
}
