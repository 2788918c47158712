import type { File, Operation, SimulatedFileSystem } from '../../../src/testing/index.ts'

/**
 * Makes a file system do less than its port promises, as a library that forgot to ask for it would see it.
 */
export type Sabotage = (files: SimulatedFileSystem) => void

/**
 * Leaves out a sync of a directory when the names changed since the last one say so. What is pending then
 * stays so until the next sync that is not left out.
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

/** Gives every file that is opened other methods; those that it has are passed in, bound. */
export function withFiles(change: (file: Bound) => Partial<File>): Sabotage {
  return (files) => {
    const open = files.open.bind(files)
    files.open = async (path, mode) => {
      const file = await open(path, mode)
      // Changed in place, since the simulated lock wants one of its own files.
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

/** `dataSync` resolves at once and is done before the next call that changes the file or closes it. */
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

/** A sync that fails is tried once more. */
export const retriesSync: Sabotage = withFiles(({ sync, dataSync }) => ({
  sync: () => sync().catch(() => sync()),
  dataSync: () => dataSync().catch(() => dataSync()),
}))

/** A write that was short passes for a whole one. */
export const endsShortWrites: Sabotage = withFiles(({ write }) => ({
  write: (bytes, position) => {
    const written = write(bytes, position)
    return typeof written === 'number' ? bytes.length : written.then(() => bytes.length)
  },
}))

/** A read that fails passes for the end of the file. */
export const readsErrorsAsEnd: Sabotage = withFiles(({ read }) => ({
  read: (buffer, position) => read(buffer, position).catch(() => 0),
}))

/** Every lock is given to everybody. */
export const locksNothing: Sabotage = (files) => {
  files.lock = () => Promise.resolve(true)
}
