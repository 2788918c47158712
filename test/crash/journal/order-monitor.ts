import type { File, OpenMode, SimulatedFileSystem } from '../../../src/testing/index.ts'
import { OrderRules } from './order-rules.ts'

const monitors = new WeakMap<SimulatedFileSystem, OrderMonitor>()

/**
 * Passes every operation of one simulated file system, with its result, and every claim of the
 * store to the {@link OrderRules}. There is one monitor for each file system, however many stores
 * are opened on it.
 */
export class OrderMonitor {
  /** How many operations were observed, over all file systems, including repeated ones. */
  static operations = 0
  /** How many of them are known from an equal disk, and were not run again. */
  static repeated = 0
  readonly #rules: OrderRules

  /**
   * Returns the monitor of this file system; creates it, and starts observing, on the first call.
   */
  static of(files: SimulatedFileSystem, path: string): OrderMonitor {
    const known = monitors.get(files)
    if (known !== undefined) return known
    const monitor = new OrderMonitor(files, path)
    monitors.set(files, monitor)
    return monitor
  }

  private constructor(files: SimulatedFileSystem, path: string) {
    const rules = new OrderRules(path)
    this.#rules = rules
    const [visible, durable] = [files.snapshot(), files.afterCrash({ keep: 'none' }).snapshot()]
    for (const name of new Set([...visible.keys(), ...durable.keys()])) {
      rules.exists(name, visible.get(name), durable.get(name))
    }
    observe(files, rules)
    files.onOperation(() => {
      OrderMonitor.operations += 1
    })
  }

  /** Counts operations that were not run, because an equal disk has shown how they end. */
  static repeat(operations: number): void {
    OrderMonitor.operations += operations
    OrderMonitor.repeated += operations
  }

  /** A store is about to open the journal. */
  begin(): void {
    this.#rules.begin()
  }

  acknowledge(first: number, lines: readonly string[]): void {
    this.#rules.acknowledge(first, lines)
    this.assertInOrder()
  }

  settled(what: string): void {
    this.#rules.settled(what)
    this.assertInOrder()
  }

  assertInOrder(): void {
    const { breaches } = this.#rules
    if (breaches.length > 0) throw new Error(`Out of order: ${[...new Set(breaches)].join('; ')}`)
  }
}

/** Wraps the methods of the file system, since `onOperation` does not report results. */
function observe(files: SimulatedFileSystem, rules: OrderRules): void {
  const open = files.open.bind(files)
  files.open = async (path, mode) => {
    const isNew = makes(mode) && !files.exists(path)
    const file = await open(path, mode)
    if (isNew) rules.create(path)()
    return mode === 'read' || mode === 'directory' ? file : observeFile(file as File & { readonly path: string }, rules)
  }
  const rename = files.rename.bind(files)
  files.rename = async (path, to) => {
    const done = rules.rename(path, to)
    await rename(path, to)
    done()
  }
  const unlink = files.unlink.bind(files)
  files.unlink = async (path) => {
    const done = files.exists(path) ? rules.unlink(path) : undefined
    await unlink(path)
    done?.()
  }
  const makeDirectory = files.makeDirectory.bind(files)
  files.makeDirectory = async (path) => {
    await makeDirectory(path)
    rules.makeDirectory(path)()
  }
  const syncDirectory = files.syncDirectory.bind(files)
  files.syncDirectory = async (path) => {
    const done = rules.syncDirectory(path)
    await syncDirectory(path)
    done()
  }
}

function observeFile<T extends File & { readonly path: string }>(file: T, rules: OrderRules): T {
  const write = file.write.bind(file)
  const truncate = file.truncate.bind(file)
  const syncs = { sync: file.sync.bind(file), dataSync: file.dataSync.bind(file) }
  const observedSync = (kind: 'sync' | 'dataSync') => async (): Promise<void> => {
    const done = rules.sync(file.path)
    try {
      await syncs[kind]()
    } catch (error) {
      done(false)
      throw error
    }
    done(true)
  }
  return Object.assign(file, {
    write: (bytes: Uint8Array, position: number): number | Promise<number> => {
      const done = rules.write(file.path, position)
      const note = (written: number): number => {
        done(bytes.subarray(0, written))
        return written
      }
      const written = write(bytes, position)
      return typeof written === 'number' ? note(written) : written.then(note)
    },
    truncate: async (length: number): Promise<void> => {
      const done = rules.truncate(file.path, length)
      await truncate(length)
      done()
    },
    sync: observedSync('sync'),
    dataSync: observedSync('dataSync'),
  })
}

function makes(mode: OpenMode): boolean {
  return mode === 'create' || mode === 'ensure'
}
