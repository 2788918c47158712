import { readdir, readFile, readlink, realpath, stat } from 'node:fs/promises'

/** Whether a writer has a journal open, as far as that can be known without taking the lock. */
export type LockState =
  { readonly state: 'held'; readonly holder: LockHolder | undefined } | { readonly state: 'free' | 'unknown' }

/** The process that holds a lock. */
export interface LockHolder {
  readonly pid: number
  /** Its command line, as far as it may be seen. */
  readonly command: string
}

/**
 * Looks up who holds the lock file of a journal or, since anybody may remove that one, its active segment. Only Linux
 * tells, in /proc, and only of processes that the caller may look at; the list of locks is of all.
 */
export async function lockState({ lock, path }: { readonly lock: string; readonly path: string }): Promise<LockState> {
  const state = await stateOf(lock)
  return state.state === 'free' ? stateOf(path) : state
}

async function stateOf(lockPath: string): Promise<LockState> {
  const file = await orUndefined(stat(lockPath, { bigint: true }))
  // A writer makes it before it locks it.
  if (file === undefined) return { state: process.platform === 'linux' ? 'free' : 'unknown' }
  const locks = await orUndefined(readFile('/proc/locks', 'utf8'))
  if (locks === undefined) return { state: 'unknown' }
  const devices = devicesWithLock(locks, file.ino)
  if (devices.length === 0) return { state: 'free' }
  const holder = await findHolder(await realpath(lockPath))
  if (holder !== undefined) return { state: 'held', holder }
  // Some file systems go by another device number there than in stat: then it may be the lock of another
  // file.
  return devices.includes(deviceText(Number(file.dev))) ? { state: 'held', holder: undefined } : { state: 'unknown' }
}

/** The devices on which a file with this inode number is locked: the field is `major:minor:inode`. */
function devicesWithLock(locks: string, inode: bigint): string[] {
  return [...locks.matchAll(/ ([0-9a-f]+:[0-9a-f]+):(\d+) /g)]
    .filter(([, , number]) => BigInt(number as string) === inode)
    .map(([, device]) => device as string)
}

/** A device number as /proc/locks writes it; the kernel packs 12 bits of major and 20 of minor. */
function deviceText(device: number): string {
  const major = (device >>> 8) & 0xfff
  const minor = (device & 0xff) | ((device >>> 12) & 0xfff00)
  return [major, minor].map((part) => part.toString(16).padStart(2, '0')).join(':')
}

/** A lock belongs to an open file and names no process: so it is looked for among everybody's open files. */
async function findHolder(lockPath: string): Promise<LockHolder | undefined> {
  const processes = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  for (const pid of processes) {
    // Those of other users may not be looked at, and any may end meanwhile.
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
    // Not there, not here, or not for us to see: all mean that nothing is known.
    return undefined
  }
}
