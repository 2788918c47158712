import { readFileSync, realpathSync } from 'node:fs'
import { availableParallelism, cpus, loadavg, platform, release, totalmem } from 'node:os'
import { sep } from 'node:path'

/** The machine on which a case was measured. */
export interface Machine {
  readonly node: string
  readonly cpu: string
  readonly cores: number
  readonly memory: string
  readonly kernel: string
  /** Type of the file system that held the journals. */
  readonly fileSystem: string
  /** Load average of the minute before the case, in processes. */
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

/** Whether the file system is in memory, where a sync stores nothing and costs nothing. */
export function isInMemory({ fileSystem }: Machine): boolean {
  return fileSystem === 'tmpfs' || fileSystem === 'ramfs'
}

function fileSystemOf(directory: string): string {
  if (platform() !== 'linux') return `unknown on ${platform()}`
  return mountedAt(readFileSync('/proc/self/mounts', 'utf8'), realpathSync(directory))
}

/** The type of the file system that holds a path, according to a table of mounts. */
export function mountedAt(table: string, path: string): string {
  const mounts = table
    .split('\n')
    .map((line) => line.split(' '))
    .map(([, place = '', type = '']) => ({ place: unescaped(place), type }))
    .filter(({ place }) => place === sep || path === place || (place !== '' && path.startsWith(place + sep)))
  // The deepest mount holds the path. If mounts share a place, the last one hides the others.
  const [nearest] = mounts.toReversed().toSorted((left, right) => right.place.length - left.place.length)
  return nearest?.type ?? 'unknown'
}

/** Decodes the octal escapes that the table of mounts uses for blanks. */
function unescaped(place: string): string {
  return place.replaceAll(/\\(\d{3})/g, (_, octal: string) => String.fromCodePoint(Number.parseInt(octal, 8)))
}
