import type { FileSystem } from '../fs/file-system.ts'
import type { JournalEntry } from '../journal/journal.ts'
import { DiskSource } from './disk-source.ts'
import { JournalCursor } from './journal-cursor.ts'
import { JournalStream } from './journal-stream.ts'
import type { JournalWriter } from './journal-writer.ts'
import { LiveSource } from './live-source.ts'
import { RecordCodec } from './record-codec.ts'
import { ReplaySource } from './replay-source.ts'
import { readSettings, streamSettings } from './settings.ts'

/** A walk that has not begun, as records or as entries. */
export interface UnstartedReplay<T> {
  /** The records alone: what `stream()` gives. */
  records(): JournalStream<T>
  /** The records with their sequence numbers: what `entries()` gives. */
  entries(): JournalStream<JournalEntry<T>>
  /** All records in an array: what `replay()` gives. */
  collect(): Promise<T[]>
}

/** A replay of an open store, bounded by what is acknowledged now. */
export function replayStore<T>(
  fs: FileSystem,
  writer: JournalWriter,
  codec: RecordCodec<T, never>,
  options: unknown,
): UnstartedReplay<T> {
  const settings = streamSettings(options)
  const source = new LiveSource(writer, new DiskSource(fs, writer.files.path))
  const cursor = new JournalCursor(fs, source, codec, settings, writer.view())
  return unstarted(cursor, settings)
}

/** A replay of the journal at a path, bounded by what is there when it is first read. */
export function replayPath(path: string, options: unknown): UnstartedReplay<unknown> {
  const settings = readSettings(options)
  const { fileSystem } = settings
  const source = new DiskSource(fileSystem, path, settings)
  return unstarted(new JournalCursor<unknown>(fileSystem, source, new RecordCodec(settings), settings), settings)
}

function unstarted<T>(
  cursor: JournalCursor<T>,
  settings: { readonly signal: AbortSignal | undefined; readonly follow: boolean },
): UnstartedReplay<T> {
  const { signal, follow } = settings
  const records = (): JournalStream<T> => new JournalStream(new ReplaySource(cursor, () => cursor.take(), signal))
  const takeEntry = (): JournalEntry<T> => ({ sequence: cursor.sequence, record: cursor.take() })
  return {
    records,
    entries: () => new JournalStream(new ReplaySource(cursor, takeEntry, signal)),
    collect: async () => {
      if (follow) throw new TypeError('Expected `follow` to be absent: an array of records that never end cannot be')
      const all: T[] = []
      for await (const record of records()) all.push(record)
      return all
    },
  }
}
