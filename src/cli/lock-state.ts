import { readdir, readFile, readlink, realpath, stat } from 'node:fs/promises'

/** Whether a writer has a journal open, as far as this can be known without taking the lock. */
export type LockState =
  { readonly state: 'held'; readonly holder: LockHolder | undefined } | { readonly state: 'free' | 'unknown' }

/** The process that holds a lock. */
export interface LockHolder {
  readonly pid: number
  /** Its command line, or an empty string if it cannot be read. */
  readonly command: string
}

/**
 * Looks up the lock on the lock file of a journal. If that file is not locked, looks up the lock on
 * the active segment, because any process may remove the lock file.
 *
 * Only Linux provides this information, in /proc. /proc/locks lists the locks of all processes, but
 * a holder is found only among processes that the caller may inspect.
 */
export async function lockState({ lock, path }: { readonly lock: string; readonly path: string }): Promise<LockState> {
  const state = await stateOf(lock)
  return state.state === 'free' ? stateOf(path) : state
}

async function stateOf(lockPath: string): Promise<LockState> {
  const file = await orUndefined(stat(lockPath, { bigint: true }))
  // A writer creates the lock file before it locks it, so without the file no writer holds its
  // lock.
  if (file === undefined) return { state: process.platform === 'linux' ? 'free' : 'unknown' }
  const locks = await orUndefined(readFile('/proc/locks', 'utf8'))
  if (locks === undefined) return { state: 'unknown' }
  const devices = devicesWithLock(locks, file.ino)
  if (devices.length === 0) return { state: 'free' }
  const holder = await findHolder(await realpath(lockPath))
  if (holder !== undefined) return { state: 'held', holder }
  // On some file systems /proc/locks shows another device number than stat. Then the lock may
  // belong to a different file with the same inode number.
  return devices.includes(deviceText(Number(file.dev))) ? { state: 'held', holder: undefined } : { state: 'unknown' }
}

/**
 * Returns the devices on which a file with this inode number is locked. The field in /proc/locks is
 * `major:minor:inode`.
 */
function devicesWithLock(locks: string, inode: bigint): string[] {
  return [...locks.matchAll(/ ([0-9a-f]+:[0-9a-f]+):(\d+) /g)]
    .filter(([, , number]) => BigInt(number as string) === inode)
    .map(([, device]) => device as string)
}

/**
 * Formats a device number as in /proc/locks. The kernel packs 12 bits of major and 20 bits of
 * minor.
 */
function deviceText(device: number): string {
  const major = (device >>> 8) & 0xfff
  const minor = (device & 0xff) | ((device >>> 12) & 0xfff00)
  return [major, minor].map((part) => part.toString(16).padStart(2, '0')).join(':')
}

/**
 * A lock belongs to an open file and names no process, so this searches the open files of all
 * processes.
 */
async function findHolder(lockPath: string): Promise<LockHolder | undefined> {
  const processes = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  for (const pid of processes) {
    // Processes of other users may be unreadable, and any process may end during the search.
    for (const descriptor of (await orUndefined(readdir(`/proc/${pid}/fd`))) ?? []) {
      if ((await orUndefined(readlink(`/proc/${pid}/fd/${descriptor}`))) !== lockPath) continue
      const info = await orUndefined(readFile(`/proc/${pid}/fdinfo/${descriptor}`, 'utf8'))
      if (info === undefined || !/^lock:/m.test(info)) continue
      const words = (await orUndefined(readFile(`/proc/${pid}/cmdline`, 'utf8'))) ?? ''
      return { pid: Number(pid), command: words.split('\0').join(' ').trim() }
    }
  }
  return undefined
}

async function orUndefined<T>(asked: Promise<T>): Promise<T | undefined> {
  try {
    return await asked
  } catch {
    // The entry does not exist, this system has no /proc, or access is denied. In all three cases
    // nothing is known.
    return undefined
  }
}
