import type { FileSystem } from '../fs/file-system.ts'
import { type FileSystemOption, fileSystemOption } from '../fs/node.ts'
import type { Journal } from '../journal/journal.ts'
import { boolean, fields, filePath, integer, isObject, isUrl, optionalCallback, shown } from '../options.ts'

/** A journal that is served for reading: one that is open, any other log, or the path of a journal. */
export type ServedJournal = Pick<
  Journal<unknown, never>,
  'id' | 'firstSequence' | 'lastSequence' | 'entries' | 'refresh'
>

/** Options of `durableStreams`. */
export interface DurableStreamsOptions extends FileSystemOption {
  /**
   * Directory of the streams: each has a directory of its own in it. Created if it is missing, and locked,
   * so that one server at a time uses it. Without it, only `journals` are served.
   *
   * @default none
   */
  readonly directory?: string | URL | undefined
  /**
   * Journals that are served for reading, by the name of their stream: a `MiniStore`, the path of a journal
   * that any process writes, or another log. They are not closed.
   *
   * @default none
   */
  readonly journals?: Readonly<Record<string, ServedJournal | string | URL>> | undefined
  /**
   * Beginning of the paths of all streams, with a slash at both ends. The name of a stream is the rest of
   * its path. Other paths are answered with 404.
   *
   * @default '/'
   */
  readonly prefix?: string | undefined
  /** Milliseconds that a long-poll waits for a message. @default 30_000; minimum 1 */
  readonly longPollMs?: number | undefined
  /** Milliseconds after which a stream of server-sent events ends, so that its client connects anew. @default 60_000; minimum 1 */
  readonly sseMs?: number | undefined
  /** Largest body of a request, in bytes. A larger one is answered with 413. @default 8_388_608 (8 MiB); maximum 134_217_728 */
  readonly maxBodyBytes?: number | undefined
  /**
   * Bytes after which a response or an event ends. It has at least one record, so it may be larger by one
   * body. A slow reader takes about twice as much memory.
   *
   * @default 4_194_304 (4 MiB); minimum 1
   */
  readonly maxChunkBytes?: number | undefined
  /** Streams whose journals are open at once, with three descriptors each. The one used least recently is closed. @default 1_000 */
  readonly maxOpenStreams?: number | undefined
  /** Streams in the directory. A PUT that would make more is answered with 507. @default Infinity */
  readonly maxStreams?: number | undefined
  /** Requests that wait for messages at once. More are answered with 503. @default 10_000 */
  readonly maxReaders?: number | undefined
  /**
   * The web pages that may use the streams from a browser: an origin such as `https://example.com`, or `*`
   * for all. A request that a browser sends for any other page is answered with 403.
   *
   * @default those of the server's own origin
   */
  readonly allowOrigin?: string | undefined
  /** Whether caches that several users share may keep what they read. @default false */
  readonly isPublic?: boolean | undefined
  /** As in `MiniStore.open`, for the directory and each journal in it. @default true */
  readonly lock?: boolean | undefined
  /**
   * Called with an error that the answer to a request does not tell: whatever is answered with 500, and a
   * failed snapshot.
   *
   * @default process.emitWarning
   */
  readonly onError?: ((error: unknown) => void) | undefined
}

/** Options of `durableStreams`, checked and complete. */
export interface HttpSettings {
  readonly directory: string | undefined
  readonly journals: ReadonlyMap<string, ServedJournal | string>
  readonly prefix: string
  readonly longPollMs: number
  readonly sseMs: number
  readonly maxBodyBytes: number
  readonly maxChunkBytes: number
  readonly maxOpenStreams: number
  readonly maxStreams: number
  readonly maxReaders: number
  readonly allowOrigin: string | undefined
  readonly isPublic: boolean
  readonly lock: boolean
  readonly onError: ((error: unknown) => void) | undefined
  readonly fileSystem: FileSystem
}

const names = [
  'directory', 'journals', 'prefix', 'longPollMs', 'sseMs', 'maxBodyBytes', 'maxChunkBytes', 'maxOpenStreams', 'maxStreams',
  'maxReaders', 'allowOrigin', 'isPublic', 'lock', 'onError', 'fileSystem',
]

/** @throws {TypeError | RangeError} if a name is unknown or a value is out of range. */
export function httpSettings(options: unknown): HttpSettings {
  const given = fields(options, names)
  const timer = { max: 0x7fffffff }
  const directory = given['directory'] === undefined ? undefined : filePath(given['directory'], 'directory')
  const journals = journalsOption(given['journals'])
  if (directory === undefined && journals.size === 0) throw new TypeError('Expected `directory` or `journals`, got neither')
  return {
    directory,
    journals,
    prefix: prefixOption(given['prefix']),
    longPollMs: integer('longPollMs', given['longPollMs'], { default: 30_000, ...timer }),
    sseMs: integer('sseMs', given['sseMs'], { default: 60_000, ...timer }),
    // A record takes a third more, and must fit into a string.
    maxBodyBytes: integer('maxBodyBytes', given['maxBodyBytes'], { default: 8 * mebibyte, max: 128 * mebibyte }),
    maxChunkBytes: integer('maxChunkBytes', given['maxChunkBytes'], { default: 4 * mebibyte }),
    maxOpenStreams: integer('maxOpenStreams', given['maxOpenStreams'], { default: 1_000 }),
    maxStreams: integer('maxStreams', given['maxStreams'], { default: Number.POSITIVE_INFINITY, orInfinity: true }),
    maxReaders: integer('maxReaders', given['maxReaders'], { default: 10_000 }),
    allowOrigin: originOption(given['allowOrigin']),
    isPublic: boolean('isPublic', given['isPublic'], { default: false }),
    lock: boolean('lock', given['lock'], { default: true }),
    onError: optionalCallback('onError', given['onError']),
    fileSystem: fileSystemOption(given['fileSystem']),
  }
}

const mebibyte = 1024 * 1024

/** A map, so that no name is taken for a property that every object has. */
function journalsOption(value: unknown): Map<string, ServedJournal | string> {
  const journals = new Map<string, ServedJournal | string>()
  if (value === undefined) return journals
  if (!isObject(value)) throw new TypeError(`Expected \`journals\` to be an object, got ${shown(value)}`)
  for (const [name, journal] of Object.entries(value) as Array<[string, unknown]>) {
    if (name === '') throw new TypeError('Expected each name in `journals` to have a letter, got an empty one')
    const isLog = isObject(journal) && typeof Reflect.get(journal, 'entries') === 'function'
    const isPath = typeof journal === 'string' || isUrl(journal)
    if (!isLog && !isPath) throw new TypeError(`Expected the journal ${JSON.stringify(name)} to be a path or a journal, got ${shown(journal)}`)
    // As a URL has it, so that it can be compared with the path of a request.
    const { pathname } = new URL(`http://localhost/${encodeURI(name)}`)
    journals.set(pathname.slice(1), isLog ? (journal as ServedJournal) : filePath(journal, 'journals'))
  }
  return journals
}

function prefixOption(value: unknown): string {
  if (value === undefined) return '/'
  if (typeof value === 'string' && /^\/(?:.*\/)?$/.test(value)) return value
  throw new TypeError(`Expected \`prefix\` to be a path that begins and ends with a slash, got ${shown(value)}`)
}

function originOption(value: unknown): string | undefined {
  if (value === undefined || value === '*') return value
  const origin = typeof value === 'string' && URL.canParse(value) ? new URL(value).origin : undefined
  if (origin === value) return origin
  throw new TypeError(`Expected \`allowOrigin\` to be \`*\` or an origin such as https://example.com, got ${shown(value)}`)
}
