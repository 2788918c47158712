import { readFileSync, realpathSync } from 'node:fs'
import { availableParallelism, cpus, loadavg, platform, release, totalmem } from 'node:os'
import { sep } from 'node:path'

/** Where something was measured. */
export interface Machine {
  readonly node: string
  readonly cpu: string
  readonly cores: number
  readonly memory: string
  readonly kernel: string
  /** Type of the file system that the journals were on. */
  readonly fileSystem: string
  /** What else kept it busy: the average of the minute before, in processes. */
  readonly load: number
}

export function describeMachine(directory: string): Machine {
  return {
    node: process.version,
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    kernel: `${platform()} ${release()}`,
    fileSystem: fileSystemOf(directory),
    load: loadavg()[0] ?? 0,
  }
}

/** Whether a sync costs nothing there, because nothing is stored. */
export function isInMemory({ fileSystem }: Machine): boolean {
  return fileSystem === 'tmpfs' || fileSystem === 'ramfs'
}

function fileSystemOf(directory: string): string {
  if (platform() !== 'linux') return `unknown on ${platform()}`
  return mountedAt(readFileSync('/proc/self/mounts', 'utf8'), realpathSync(directory))
}

/** The type in a table of mounts of what is mounted nearest above a path. */
export function mountedAt(table: string, path: string): string {
  const mounts = table
    .split('\n')
    .map((line) => line.split(' '))
    .map(([, place = '', type = '']) => ({ place: unescaped(place), type }))
    .filter(({ place }) => place === sep || path === place || (place !== '' && path.startsWith(place + sep)))
  // Of mounts at one place the later one hides the others.
  const [nearest] = mounts.toReversed().toSorted((left, right) => right.place.length - left.place.length)
  return nearest?.type ?? 'unknown'
}

/** Blanks in the table are written in octal. */
function unescaped(place: string): string {
  return place.replaceAll(/\\(\d{3})/g, (_, octal: string) => String.fromCodePoint(Number.parseInt(octal, 8)))
}
