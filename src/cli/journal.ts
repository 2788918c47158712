// What commands ask of a journal: is it there, how does it stand, its records, who has it open.

import { open as openFile, readdir, readFile, readlink, realpath, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'

import { settledOrAborted } from '../async.ts'
import { hasCode, type MiniStoreError } from '../errors.ts'
import type { FileSystem } from '../fs/file-system.ts'
import { nodeFileSystem } from '../fs/node.ts'
import { type JournalEntry, MiniStore, type ReadOptions } from '../index.ts'
import { type JournalOutline, outlineJournal } from '../maintenance/inspect.ts'
import { headerMagic } from '../ministore/format.ts'
import type { Codec } from '../ministore/settings.ts'
import { JournalViews } from '../ministore/view.ts'
import type { Arguments } from './command.ts'
import { CommandFailure, UsageError } from './errors.ts'
import type { Io } from './io.ts'
import { ProgressBar } from './progress-bar.ts'
import { colouredJson, shellWord, styleFor, visibleJson } from './terminal.ts'

/**
 * Returns the outline of the journal at a path. Returns undefined if the file is still empty, as it
 * may be after a crash.
 *
 * @throws {CommandFailure} if there is no journal. Rejects with the signal's reason if the signal
 *   is aborted.
 */
export async function outlineOf(
  path: string,
  options: {
    readonly salvage?: ((damage: MiniStoreError) => void) | undefined
    readonly signal?: AbortSignal
  } = {},
): Promise<JournalOutline | undefined> {
  const { salvage, signal = new AbortController().signal } = options
  await refuseDirectory(path)
  const source = new JournalViews(nodeFileSystem, path)
  const outline = await unlessAborted(signal, () => outlineJournal(nodeFileSystem, source, salvage))
  if (outline === undefined) await assertThere(path)
  return outline
}

/** @throws {CommandFailure} if there is nothing at the path. */
export async function assertThere(path: string): Promise<void> {
  try {
    await stat(path)
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error
    const advice = 'Give the path of its active segment, such as state/journal.jsonl'
    const message = `There is no journal at ${resolve(path)}. ${advice}`
    throw new CommandFailure(message, { cause: error })
  }
}

/** @throws {CommandFailure} if the path is that of a directory. The message names the journals in it. */
async function refuseDirectory(path: string): Promise<void> {
  const found = await orUndefined(stat(path))
  if (found?.isDirectory() !== true) return
  const names = (await orUndefined(journalsIn(path))) ?? []
  const more = names.length > maxNames ? ' …' : ''
  const inIt = names.length === 0 ? 'There is none in it' : `In it: ${names.slice(0, maxNames).map(shellWord).join(' ')}${more}`
  throw new CommandFailure(`${resolve(path)} is a directory, expected the path of a journal. ${inIt}`)
}

const maxNames = 10

/** The paths of the files in a directory that begin as a journal does, without their sealed segments. */
async function journalsIn(directory: string): Promise<string[]> {
  const names = (await readdir(directory, { withFileTypes: true })).filter((entry) => entry.isFile()).map(({ name }) => name)
  const active = names.filter((name) => !/\.(?:\d+|lock|seal|broken|tmp)$/.test(name)).toSorted()
  const isJournal = await Promise.all(active.map((name) => startsAsJournal(join(directory, name))))
  return active.filter((_, at) => isJournal[at]).map((name) => join(directory, name))
}

async function startsAsJournal(path: string): Promise<boolean> {
  const file = await orUndefined(openFile(path))
  if (file === undefined) return false
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(magic.length), 0, magic.length, 0)
    return bytesRead === magic.length && buffer.equals(magic)
  } finally {
    await file.close()
  }
}

const magic = Buffer.from(headerMagic)

/**
 * Returns the values of `--from` and `--to`.
 *
 * @throws {UsageError} if they are no sequence numbers, or in the wrong order.
 */
export function rangeOf(args: Arguments): { readonly from: number | undefined; readonly to: number | undefined } {
  const [from, to] = [args.integer('from'), args.integer('to')]
  if (from !== undefined && to !== undefined && to < from) {
    throw new UsageError(`Expected --to to be at least ${from}, the value of --from, got ${to}`)
  }
  return { from, to }
}

/**
 * Resolves with the result of `start`, or rejects with the signal's reason as soon as the signal is
 * aborted. The work continues unobserved until the process ends, so `start` must not change
 * anything.
 */
export async function unlessAborted<T>(signal: AbortSignal, start: () => Promise<T>): Promise<T> {
  signal.throwIfAborted()
  const work = start()
  await settledOrAborted(work, signal)
  return work
}

/**
 * Decodes each record as its line, byte for byte: numbers, spaces and the order of keys stay as
 * they were written.
 */
export function lineCodec(options: { readonly isJson: boolean }): Pick<Codec<never, string>, 'decode'> {
  return { decode: options.isJson ? checkedLine : (line) => line }
}

function checkedLine(line: string): string {
  JSON.parse(line)
  return line
}

/**
 * Prints records as they are read, and all of them before it resolves. Records are printed byte for
 * byte, except on a terminal, which could act on invisible characters. There they are printed as
 * JSON escapes, so that a copied line keeps its value.
 */
export async function printRecords(
  path: string,
  { stdout, env, signal }: Io,
  how: {
    readonly range: Pick<ReadOptions, 'from' | 'to' | 'follow' | 'salvage'>
    readonly limit?: number | undefined
    readonly isJson: boolean
    /** Prints each record and its sequence number as one JSON object. */
    readonly isNumbered: boolean
  },
): Promise<void> {
  const { range, limit = Number.POSITIVE_INFINITY, isJson, isNumbered } = how
  if (limit === 0) return
  const options = { ...range, codec: lineCodec({ isJson }), signal }
  const lines = isNumbered ? numbered(MiniStore.entries(path, options), isJson) : MiniStore.stream(path, options)
  const style = styleFor(stdout, { env })
  let left = limit
  for await (const line of lines) {
    const text = !stdout.isTerminal ? line : isJson || isNumbered ? colouredJson(line, style) : visibleJson(line)
    const waiting = stdout.write(`${text}\n`)
    if (waiting !== undefined) await waiting
    if (--left === 0) break
  }
  // The caller only prints, so a closed pipe ends it here as it does while printing.
  await stdout.flush()
}

/**
 * Prints the lines of records byte for byte, in blocks. A line is parsed only if no checksum covers
 * it, so a line that has changed may be printed; the damage is an error at the end of its segment.
 */
export async function printBlocks(
  path: string,
  { stdout, signal }: Io,
  { isJson, ...range }: { readonly from: number | undefined; readonly to: number | undefined; readonly isJson: boolean },
): Promise<void> {
  const codec = isJson ? undefined : lineCodec({ isJson })
  for await (const block of MiniStore.bytes(path, { ...range, codec, signal })) await stdout.writeBytes(block)
}

/** Text of another codec becomes a JSON string. */
async function* numbered(entries: AsyncIterable<JournalEntry<string>>, isJson: boolean): AsyncGenerator<string> {
  for await (const { sequence, record } of entries) {
    yield `{"sequence":${sequence},"record":${isJson ? record : JSON.stringify(record)}}`
  }
}

/**
 * Reads a whole journal behind a progress bar. Resolves with undefined if the file is still empty.
 *
 * @throws {CommandFailure} if there is no journal.
 */
export async function readWhole<T>(
  path: string,
  { label, io }: { readonly label: string; readonly io: Io },
  read: (fileSystem: FileSystem, bar: ProgressBar) => Promise<T | undefined>,
): Promise<T | undefined> {
  const outline = await outlineOf(path, { salvage: () => {}, signal: io.signal })
  const totalBytes = outline?.view.segments.reduce((sum, segment) => sum + segment.bytes, 0) ?? 0
  const bar = new ProgressBar(io.stderr, label)
  let bytes = 0
  const fileSystem = countingFileSystem((count) => bar.update({ bytes: (bytes += count), totalBytes }))
  const found = await read(fileSystem, bar).finally(() => bar.clear())
  if (found === undefined) await assertThere(path)
  return found
}

/**
 * Returns the file system of this machine, which reports the number of bytes of every read. Used
 * for progress bars.
 */
export function countingFileSystem(onRead: (bytes: number) => void): FileSystem {
  const open: FileSystem['open'] = async (...how) => {
    const file = await nodeFileSystem.open(...how)
    const read = file.read.bind(file)
    file.read = async (buffer, position) => {
      const bytes = await read(buffer, position)
      onRead(bytes)
      return bytes
    }
    return file
  }
  return { ...nodeFileSystem, open }
}

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
