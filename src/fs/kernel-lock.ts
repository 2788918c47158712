/**
 * The kernel lock of an open file, acquired with what the runtime offers. Node uses the native
 * module `fs-native-extensions`. Bun and Deno call the C library, because that module ends their
 * process when a lock is contended. All of them lock the same byte with the same system call, so a
 * writer in one runtime excludes writers in the others.
 */

import { createRequire } from 'node:module'

import { messageOf, propertyOf } from '../errors.ts'

/** Tries to lock an open file. Returns `false` if another open file holds the lock. */
export type TryLock = (descriptor: number) => boolean

/**
 * Offset of the locked byte. On Windows a lock keeps others from reading the bytes that it covers,
 * so this byte lies far beyond the data of any segment. Releases up to 0.3 lock the whole file,
 * which includes this byte.
 */
const lockedOffset = 2 ** 52

let loading: Promise<TryLock> | undefined

/**
 * Loads the lock on first use. Readers and `lock: false` therefore work where no lock is available.
 *
 * @throws if this runtime has no kernel lock. The message says what to do.
 */
export function loadKernelLock(): Promise<TryLock> {
  if (loading === undefined) {
    loading = load()
    // A failure is not kept, so the next call tries again.
    loading.catch(() => (loading = undefined))
  }
  return loading
}

async function load(): Promise<TryLock> {
  const { bun, deno } = process.versions
  if (bun === undefined && deno === undefined) return await addonLock()
  if (deno === undefined) return systemLock('Bun', openInBun)
  assertSystemDescriptors(deno)
  return systemLock('Deno', openInDeno)
}

interface Addon {
  readonly tryLock: (descriptor: number, offset: number, length: number) => boolean
}

/**
 * The file of the native module, once its import has failed. Node keeps a failed import, also one
 * that failed because too many files were open. Later attempts require the file instead.
 */
let addonFile: string | undefined

async function addonLock(): Promise<TryLock> {
  try {
    const addon = addonFile === undefined ? await importAddon() : (createRequire(addonFile)(addonFile) as Addon)
    return (descriptor) => addon.tryLock(descriptor, lockedOffset, 1)
  } catch (error) {
    const path = propertyOf(error, 'path')
    if (typeof path === 'string') addonFile = path
    // The loader of the module also lists every path that it tried. The cause keeps them.
    const [reason] = messageOf(error).split('\n')
    throw new Error(
      `the package fs-native-extensions could not be loaded on ${process.platform}-${process.arch} (${reason}). ` +
        'In a bundle, mark `fs-native-extensions` as external and install it beside the bundle. Elsewhere, check ' +
        'that it is installed and has a binary for this platform',
      { cause: error },
    )
  }
}

async function importAddon(): Promise<Addon> {
  // Bundlers leave this import alone if the package is marked as external.
  // @ts-expect-error The package has no types.
  const { default: addon } = (await import('fs-native-extensions')) as { readonly default: Addon }
  return addon
}

/** A function of the C library: two integers and, for some functions, a buffer. */
type SystemCall = (descriptor: number, command: number, buffer?: Uint8Array) => number

/**
 * Opens one function of a C library.
 *
 * @throws if the library is missing, or the runtime does not permit foreign calls.
 */
type OpenCall = (library: string, name: 'fcntl' | 'flock', hasBuffer: boolean) => SystemCall

function systemLock(runtime: string, open: OpenCall): TryLock {
  if (process.platform === 'linux') {
    const fcntl = openFcntl(open)
    return (descriptor) => lockOpenFile(fcntl, descriptor)
  }
  if (process.platform === 'darwin') {
    const flock = open('libSystem.B.dylib', 'flock', false)
    const exclusiveWithoutWaiting = 2 | 4
    // A refusal for any reason counts as contended: the errno is not available here.
    return (descriptor) => flock(descriptor, exclusiveWithoutWaiting) === 0
  }
  throw new Error(`${runtime} offers no kernel lock on ${process.platform}`)
}

/**
 * In older versions of Deno, a descriptor of `node:fs` is a number of the runtime and not of the
 * system. The C library would then lock another file and report success. The version decides,
 * because reading `/proc/self/fd` to compare the files would need all permissions.
 *
 * @throws {Error} if Deno is older than 2.8.
 */
function assertSystemDescriptors(version: string): void {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  if (major > 2 || (major === 2 && minor >= 8)) return
  throw new Error(`Deno ${version} is too old: its file descriptors may not be those of the system. Update it to 2.8 or newer`)
}

function openFcntl(open: OpenCall): SystemCall {
  try {
    return open('libc.so.6', 'fcntl', true)
  } catch (error) {
    const machine = process.arch === 'arm64' ? 'aarch64' : 'x86_64'
    try {
      return open(`libc.musl-${machine}.so.1`, 'fcntl', true)
    } catch {
      throw error
    }
  }
}

/**
 * Takes a lock that belongs to the open file (`F_OFD_SETLK`), as `fs-native-extensions` does on
 * Linux. The errno of a refusal is not available here. `F_OFD_GETLK` tells instead whether another
 * open file holds the lock.
 */
function lockOpenFile(fcntl: SystemCall, descriptor: number): boolean {
  const [getLock, setLock] = [36, 37]
  if (fcntl(descriptor, setLock, lockRequest()) === 0) return true
  const found = lockRequest()
  const unlocked = 2
  if (fcntl(descriptor, getLock, found) === 0 && found[0] !== unlocked) return false
  // The other writer may have ended between the two calls.
  if (fcntl(descriptor, setLock, lockRequest()) === 0) return true
  throw new Error('fcntl(F_OFD_SETLK) failed; the file system may not support locks')
}

/**
 * `struct flock` of 64-bit Linux, little-endian: type and whence of 16 bits each, then, at byte 8,
 * start and length of 64 bits each, and a process id.
 */
function lockRequest(): Uint8Array {
  const writeLock = 1
  const request = new DataView(new ArrayBuffer(32))
  request.setInt16(0, writeLock, true)
  request.setBigInt64(8, BigInt(lockedOffset), true)
  request.setBigInt64(16, 1n, true)
  return new Uint8Array(request.buffer)
}

const openInBun: OpenCall = (library, name, hasBuffer) => {
  const ffi = process.getBuiltinModule('bun:ffi') as unknown as BunFfi
  const args = hasBuffer ? ['i32', 'i32', 'ptr'] : ['i32', 'i32']
  const call = ffi.dlopen(library, { [name]: { args, returns: 'i32' } }).symbols[name]
  return (descriptor, command, buffer) => call(descriptor, command, ...(buffer === undefined ? [] : [ffi.ptr(buffer)]))
}

const openInDeno: OpenCall = (library, name, hasBuffer) => {
  const deno = Reflect.get(globalThis, 'Deno') as Deno
  const parameters = hasBuffer ? ['i32', 'i32', 'buffer'] : ['i32', 'i32']
  const call = deno.dlopen(library, { [name]: { parameters, result: 'i32' } }).symbols[name]
  return (descriptor, command, ...buffer) => call(descriptor, command, ...buffer)
}

interface BunFfi {
  dlopen(library: string, functions: object): { readonly symbols: Record<'fcntl' | 'flock', ForeignFunction> }
  ptr(buffer: Uint8Array): number
}

interface Deno {
  dlopen(library: string, functions: object): { readonly symbols: Record<'fcntl' | 'flock', ForeignFunction> }
}

type ForeignFunction = (...args: unknown[]) => number
