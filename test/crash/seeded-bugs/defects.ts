import { bytesDefects } from './bytes-defects.ts'
import type { Patch } from './patched-copy.ts'
import {
  acknowledgesFirst, endsShortWrites, locksNothing, readsErrorsAsEnd, retriesSync, type Sabotage,
  withoutDirectorySync,
} from './sabotage.ts'
import { followerDefects } from './follower-defects.ts'
import { queueDefects } from './queue-defects.ts'
import { replicaDefects } from './replica-defects.ts'
import { snapDefects } from './snap-defects.ts'
import { stateDefects } from './state-defects.ts'
import { viewDefects } from './view-defects.ts'

/**
 * A deliberate defect: a file system that does less than asked, or a library patched to ask for
 * less.
 */
export interface Defect {
  readonly name: string
  readonly sabotage?: Sabotage
  readonly patches?: readonly Patch[]
  /**
   * Must match one of the findings. Any failure at all would prove nothing, since a patch that
   * merely breaks the library fails too.
   */
  readonly finding: RegExp
}

export const defects: readonly Defect[] = [
  {
    name: 'no directory fsync after create',
    sabotage: withoutDirectorySync(
      (changes) =>
        changes.length > 0 &&
        changes.every(({ operation }) => operation === 'open' || operation === 'makeDirectory'),
    ),
    finding: /a crash right after open leaves 0 of|0 is the last record, but \d+ were acknowledged/,
  },
  {
    name: 'no directory fsync after rename',
    sabotage: withoutDirectorySync((changes) => changes.some(({ operation }) => operation === 'rename')),
    finding: /0 is the last record, but \d+ were acknowledged/,
  },
  {
    name: 'acknowledge before fsync',
    sabotage: acknowledgesFirst,
    finding: /is the last record, but \d+ were acknowledged/,
  },
  {
    name: 'retry after a failed fsync',
    sabotage: retriesSync,
    finding: /^one sync fails: .*(?:does not open|were acknowledged|of \d+ acknowledged)/,
  },
  {
    name: 'no rollback of a failed write',
    patches: [
      {
        file: 'ministore/active-segment.ts',
        find: 'await this.file.truncate(this.#acknowledged.bytes)\n      await this.file.sync()\n',
        by: '',
      },
    ],
    finding: /^one write ends for want of space.*(?:not JSON|issued|before its bytes are durable)/,
  },
  {
    name: 'a short write passes for a whole one',
    sabotage: endsShortWrites,
    finding: /^one write is short: .*(?:damaged|not JSON|issued|acknowledged)/,
  },
  {
    name: 'a torn tail is kept because it parses',
    patches: [
      {
        file: 'ministore/recovery.ts',
        find: '  const { prefix } = scan\n  if (scan.damage',
        by: `  const { prefix } = scan
    if (scan.torn !== undefined) {
      const tail = Buffer.alloc(scan.torn.bytes)
      await file.read(tail, prefix.bytes)
      if (parses(tail)) {
        await writeFully(file, Buffer.from('\\n'), last.bytes)
        await file.sync()
        return await recoverActive(fs, files, { ...found, last: { ...last, bytes: last.bytes + 1 } })
      }
    }
  if (scan.damage`,
      },
      {
        file: 'ministore/recovery.ts',
        find: '/** Creates the active segment if it is missing or holds only part of a header. */\n',
        by: `function parses(line: Buffer): boolean {
  try {
    JSON.parse(line.toString())
    return true
  } catch {
    return false
  }
}
`,
      },
    ],
    finding: /^recovery of a torn tail that parses: .*\[3,"12"\]/,
  },
  {
    name: 'a rotation gives the next segment another identity',
    patches: [
      {
        file: 'ministore/writer.ts',
        find: 'const id = this.#id ?? newJournalId()',
        by: 'const id = newJournalId()',
      },
    ],
    finding: /does not open: ERR_MINISTORE_CORRUPT.*its header has the id|it has the identity/,
  },
  {
    name: 'an old journal gets another identity than its older segments have',
    patches: [
      {
        file: 'ministore/recovery.ts',
        find: 'const id = idOf(sealed) ?? newJournalId()',
        by: 'const id = newJournalId()',
      },
    ],
    finding: /^recovery of a journal that an older program has rotated: /,
  },
  {
    name: 'no directory fsync after a header is replaced',
    patches: [
      {
        file: 'ministore/rotation.ts',
        find: `throw hasCode(error, ...refusals) ? error : new PoisoningError(error)
    })
    await orPoison(fs.syncDirectory(files.directory))
`,
        by: `throw hasCode(error, ...refusals) ? error : new PoisoningError(error)
    })
`,
      },
    ],
    finding: /^recovery of an old journal without records: .*the seal says \d+ bytes before they are durable/,
  },
  {
    name: 'a reader does not compare the identity',
    patches: [
      {
        file: 'ministore/view.ts',
        find: 'if (id !== undefined && id !== (this.#id ??= id)) {',
        by: 'if (this.#id !== undefined && this.#id === null) {',
      },
    ],
    finding: /a reader continues in another journal with/,
  },
  {
    name: 'truncateBefore deletes newest first',
    patches: [
      {
        file: 'ministore/writer.ts',
        find: '      while (this.#sealed.length > 0 && isCovered()) await this.#deleteOldest()\n',
        by: `      const segments = this.#sealed.followedBy(this.#active.segment)
      const covered = segments.slice(1).filter(({ firstSequence }) => firstSequence <= sequence).length
      for (const { path } of segments.slice(0, covered).toReversed()) {
        await removeIfPresent(this.#fs, path)
        await this.#fs.syncDirectory(this.files.directory)
        this.#sealed.removeOldest()
      }
`,
      },
    ],
    finding: /is removed before the older|missing between/,
  },
  {
    name: 'no directory fsync between two deletions, one at the end',
    patches: [
      {
        file: 'ministore/writer.ts',
        find: 'orPoison(this.#fs.syncDirectory(this.files.directory))',
        by: 'Promise.resolve()',
      },
      {
        file: 'ministore/writer.ts',
        find: '      while (this.#sealed.length > 0 && isCovered()) await this.#deleteOldest()\n',
        by: `      while (this.#sealed.length > 0 && isCovered()) await this.#deleteOldest()
      await this.#guard('delete', orPoison(this.#fs.syncDirectory(this.files.directory)))
`,
      },
      {
        file: 'ministore/writer.ts',
        find: '    while (this.#sealed.length + 1 > this.#limits.maxSegments) await this.#deleteOldest()\n',
        by: `    while (this.#sealed.length + 1 > this.#limits.maxSegments) await this.#deleteOldest()
    await this.#guard('delete', orPoison(this.#fs.syncDirectory(this.files.directory)))
`,
      },
    ],
    finding: /is removed before the change of names before it is durable|missing between/,
  },
  {
    name: 'a header without prev',
    patches: [
      {
        file: 'ministore/rotation.ts',
        find: 'formatHeader(start)',
        by: 'formatHeader({ ...start, previousCrc32: undefined })',
      },
    ],
    finding: /its header has no prev/,
  },
  {
    name: 'a header with a wrong prev',
    patches: [
      {
        file: 'ministore/rotation.ts',
        find: 'previousCrc32: acknowledged.crc32',
        by: 'previousCrc32: (acknowledged.crc32 ^ 1) >>> 0',
      },
    ],
    finding: /it has changed since it was sealed \(wrong checksum\)/,
  },
  {
    name: 'the seal is written ahead of the data it covers',
    patches: [
      {
        file: 'ministore/active-segment.ts',
        find: "import { type Checkpoint, extendCheckpoint } from './format.ts'\n",
        by: `import type { FileSystem } from '../fs/file-system.ts'
import { type Checkpoint, extendCheckpoint, writeSealIfRoom } from './format.ts'
`,
      },
      {
        file: 'ministore/active-segment.ts',
        find: '  readonly path: string\n',
        by: '  readonly path: string\n  readonly sealing: FileSystem\n',
      },
      {
        file: 'ministore/active-segment.ts',
        find: '      const synced = this.file.dataSync()\n',
        by: `      const checkpoint = extendCheckpoint(from, lines, records)
      await writeSealIfRoom(options.sealing, options.path + '.seal', { checkpoint, access: await this.file.stat() })
      const synced = this.file.dataSync()
`,
      },
      {
        file: 'ministore/writer.ts',
        find: '{ path, ...this.#limits }',
        by: '{ path, sealing: this.#fs, ...this.#limits }',
      },
    ],
    finding: /the seal says \d+ bytes before they are durable|the seal covers \d+ bytes, but only/,
  },
  {
    name: 'the seal stays when the segment is rotated',
    patches: [
      {
        file: 'ministore/rotation.ts',
        find: 'if (await removeIfPresent(fs, files.seal)) await orPoison(',
        by: 'await orPoison(',
      },
    ],
    finding: /while a seal may still speak of it|the seal covers \d+ bytes, but only/,
  },
  {
    name: 'the removal of the seal is not durable before the rotation',
    patches: [
      {
        file: 'ministore/rotation.ts',
        find: 'if (await removeIfPresent(fs, files.seal)) await orPoison(fs.syncDirectory(files.directory))',
        by: 'await removeIfPresent(fs, files.seal)',
      },
    ],
    finding: /while a seal may still speak of it|the seal covers \d+ bytes, but only/,
  },
  {
    name: 'segments are ordered by name instead of number',
    patches: [
      {
        file: 'ministore/format.ts',
        find: 'left.number - right.number',
        by: '(left.name < right.name ? -1 : 1)',
      },
    ],
    finding: /segments \d+ to \d+ are missing between journal\.jsonl\.1000/,
  },
  {
    name: 'a reader repairs a torn tail',
    patches: [
      {
        file: 'ministore/view.ts',
        find: '    const active = await inspectActive(fs, files, report)\n',
        by: `    const active = await inspectActive(fs, files, report)
    if (active !== undefined && 'header' in active) {
      const file = await fs.open(files.path, 'write')
      const { prefix, torn } = await scanSegment(file, { end: active.bytes })
      if (torn !== undefined) await file.truncate(prefix.bytes)
      await file.close()
    }
`,
      },
    ],
    finding: /a static reader (?:changed files|did)/,
  },
  {
    name: 'the kernel lock is not held',
    sabotage: locksNothing,
    finding: /^a second process is refused.*a second writer was admitted/,
  },
  {
    name: 'the kernel lock is freed as soon as it is taken',
    patches: [
      {
        file: 'fs/lock.ts',
        find: '    return await fs.lock(file)\n',
        by: `    const other = await fs.open(path + '.lock', 'ensure')
    try {
      return await fs.lock(other)
    } finally {
      await other.close()
    }
`,
      },
    ],
    finding: /^a second process is refused.*a second writer was admitted/,
  },
  {
    name: 'the active segment is not locked when it is opened',
    patches: [
      {
        file: 'ministore/rotation.ts',
        find: 'const active = await holdFile(fs, lock, files.path)',
        by: "const active = await ifPresent(fs.open(files.path, 'write'))",
      },
    ],
    finding: /^a second process is refused when the lock file was removed.*a second writer was admitted/,
  },
  {
    name: 'the next segment is not locked before it becomes the active one',
    patches: [
      {
        file: 'ministore/rotation.ts',
        find: '      await lock.hold(file, files.next)\n      return file\n',
        by: '      return file\n',
      },
    ],
    finding: /^a second process is refused when the lock file was removed.*a second writer was admitted/,
  },
  {
    name: 'names are changed without a look at what they lead to',
    patches: [{ file: 'fs/lock.ts', find: '      await this.assertInPlace()\n', by: '' }],
    finding: /^a journal in the place of one that was removed.*it was changed/,
  },
  {
    name: 'the registry of the process is not asked',
    patches: [
      {
        file: 'fs/lock.ts',
        find: "    if (registry.has(identity)) throw lockedError(journalPath, 'in this process')\n",
        by: '',
      },
    ],
    finding: /^a second writer in the same process.*a second writer was admitted/,
  },
  {
    name: 'no directory fsync between the two renames of a rotation',
    patches: [
      {
        file: 'ministore/rotation.ts',
        find: '    await orPoison(fs.syncDirectory(files.directory))\n    await promote(',
        by: '    await promote(',
      },
    ],
    finding: /\.next is renamed to .* before the change of names|wrong checksum|records are gone/,
  },
  {
    name: 'a torn tail is cut before its evidence is saved',
    patches: [
      {
        file: 'ministore/recovery.ts',
        find: `  const savedAs = torn === undefined ? undefined : await saveTornTail(fs, file, torn, place)
`,
        by: `  const bytes = Buffer.alloc(torn?.bytes ?? 0)
  if (torn !== undefined) await file.read(bytes, torn.offset)
  await file.truncate(prefix.bytes)
  await file.sync()
  const copy: File = Object.create(file) as File
  copy.read = (buffer, position) => Promise.resolve(bytes.copy(buffer, 0, position - prefix.bytes))
  copy.stat = () => file.stat()
  const savedAs = torn === undefined ? undefined : await saveTornTail(fs, copy, torn, place)
`,
      },
    ],
    finding: /torn bytes were cut, and no evidence holds them/,
  },
  {
    name: 'a torn tail is cut without evidence',
    patches: [
      {
        file: 'ministore/recovery.ts',
        find: 'await saveTornTail(fs, file, torn, place)',
        by: 'files.tornName(torn.sequence, 1)',
      },
    ],
    finding: /torn bytes were cut, and no evidence holds them/,
  },
  {
    name: 'the evidence is not fsynced before the tail is cut',
    patches: [{ file: 'fs/durable.ts', find: '      await file.sync()\n', by: '' }],
    finding: /torn bytes were cut, and no evidence holds them/,
  },
  {
    name: 'the name of the evidence is not durable before the tail is cut',
    patches: [
      {
        file: 'fs/evidence.ts',
        find: '    await fs.syncDirectory(directory)\n    return name\n',
        by: '    return name\n',
      },
    ],
    finding: /torn bytes were cut, and no evidence holds them/,
  },
  {
    name: 'recovery does not make a cut again whose fsync failed',
    patches: [
      {
        file: 'ministore/recovery.ts',
        find: 'await cut(file, prefix.bytes, {',
        by: 'torn === undefined || await cut(file, prefix.bytes, {',
      },
    ],
    finding: /^one write ends for want of space, and the sync of its cut fails: /,
  },
  {
    name: 'recovery does not write unsealed bytes again',
    patches: [
      {
        file: 'ministore/recovery.ts',
        find: 'await writeAgain(file, {',
        by: 'void ({',
      },
    ],
    finding: /^one sync fails: .*a crash right after open leaves/,
  },
  {
    name: 'recovery does not fsync what a killed writer left',
    patches: [
      {
        file: 'ministore/recovery.ts',
        find: '  await file.sync()\n  await fs.syncDirectory(files.directory)\n',
        by: '  await fs.syncDirectory(files.directory)\n',
      },
    ],
    finding: /open has resolved before the bytes of .* are durable|a crash right after open leaves/,
  },
  {
    name: 'appendAll acknowledges its later part before it is synced',
    patches: [
      {
        file: 'ministore/active-segment.ts',
        find: 'const written = this.file.write(bytes, from.bytes)\n',
        by: `const written = bytes.length
      await writeFully(this.file, bytes.subarray(0, lines.indexOf(0x0a) + 1), from.bytes)
`,
      },
      {
        file: 'ministore/active-segment.ts',
        find: '      await synced\n',
        by: `      await synced
      const rest = lines.subarray(lines.indexOf(0x0a) + 1)
      if (rest.length > 0) await writeFully(this.file, rest, from.bytes + lines.length - rest.length)
`,
      },
    ],
    finding: /record \d+ is acknowledged before its bytes are synced|were acknowledged/,
  },
  {
    name: 'appendAll skips a sequence number',
    patches: [
      {
        file: 'ministore/active-segment.ts',
        find: 'extended = extendCheckpoint(from, lines, records)',
        by: 'extended = extendCheckpoint(from, lines, records > 1 ? records + 1 : records)',
      },
    ],
    finding: /Expected the sequence numbers 1 to 3, got 2 to 4/,
  },
  {
    name: 'a rotation leaves the padding',
    patches: [
      {
        file: 'ministore/writer.ts',
        find: "    await this.#guard('cut off the padding', from.cutPadding())\n",
        by: '',
      },
    ],
    finding: /^preallocating.*with its padding/,
  },
  {
    name: 'the cut of the padding is not durable before a rotation',
    patches: [
      {
        file: 'ministore/active-segment.ts',
        find: '    await (isLast ? this.file.sync() : orPoison(this.file.sync()))\n',
        by: '',
      },
    ],
    finding: /^preallocating.*(?:before its bytes are durable|several lines are written into the padding)/,
  },
  {
    name: 'appendAll writes into the padding',
    patches: [
      {
        file: 'ministore/active-segment.ts',
        find: '    if (records > 1 && this.#padding > 0) await this.cutPadding()\n',
        by: '',
      },
    ],
    finding: /^preallocating.*(?:several lines are written into the padding|it does not open: ERR_MINISTORE_CORRUPT)/,
  },
  {
    name: 'padding is taken for a torn tail',
    patches: [
      {
        file: 'ministore/segments.ts',
        find: 'number === undefined ? await endOfData(file, { from: header.bytes, size }) : size',
        by: 'size',
      },
    ],
    finding: /^(?:preallocating|recovery of padding).*(?:the evidence is not what was cut|torn)/,
  },
  {
    name: 'what follows NUL bytes is taken for padding',
    patches: [
      {
        file: 'fs/bytes.ts',
        find: '    if (length > 0) return start + length\n',
        by: `    const whole = Buffer.alloc(size - from)
    await file.read(whole, from)
    if (whole.includes(0)) return from + whole.indexOf(0)
    if (length > 0) return start + length
`,
      },
    ],
    finding: /before they are durable as evidence|recovery changed more than the torn tail/,
  },
  {
    name: 'two writes at a time',
    patches: [{ file: 'ministore/writer.ts', find: 'concurrency: 1 }', by: 'concurrency: 2 }' }],
    finding: /^appends that overlap.*(?:must not overlap|issued was|Expected the sequence)/,
  },
  {
    name: 'waiting appends are done in the wrong order',
    patches: [
      {
        file: 'async.ts',
        find: '  return queue.add(() => context.runInAsyncScope(task) as Promise<T>)\n}\n',
        by: `  return queue.add(() => context.runInAsyncScope(task) as Promise<T>, { priority: ++calls })
}
let calls = 0
`,
      },
    ],
    finding: /^appends that overlap.*issued was/,
  },
  {
    name: 'a read that fails passes for the end of the file',
    sabotage: readsErrorsAsEnd,
    finding: /^one read fails: .*(?:damaged|were acknowledged)/,
  },
  ...bytesDefects,
  ...followerDefects,
  {
    name: 'group: a batch is acknowledged before its fsync',
    patches: [
      {
        file: 'journal/group-commit.ts',
        find: '      const { first } = await this.#journal.appendAll(batch.map(({ prepared }) => prepared))\n',
        by: `      const first = (this.#journal as Journal<unknown, Input>).lastSequence + 1
      const writing = this.#journal.appendAll(batch.map(({ prepared }) => prepared))
`,
      },
      {
        file: 'journal/group-commit.ts',
        find: '(({ caller, bytes }, index) => caller.resolve(first + index, bytes))\n',
        by: '(({ caller, bytes }, index) => caller.resolve(first + index, bytes))\n      await writing\n',
      },
    ],
    finding: /^group: .*(?:is acknowledged before its bytes are synced|were acknowledged)/,
  },
  {
    name: 'group: a batch is written in the wrong order',
    patches: [
      {
        file: 'journal/group-commit.ts',
        find: 'batch.map(({ prepared }) => prepared)',
        by: 'batch.map(({ prepared }) => prepared).toReversed()',
      },
    ],
    finding: /^group: .*record \d+ is (?:.*, issued was|acknowledged and not in the journal)/,
  },
  {
    name: 'group: a refused record takes its neighbours along',
    patches: [
      {
        file: 'journal/group-commit.ts',
        find: '    const prepared: unknown = this.#journal.prepare(record)\n',
        by: `    let prepared: unknown
    try {
      prepared = this.#journal.prepare(record)
    } catch (error) {
      for (const { caller, bytes } of this.#waiting.splice(0)) caller.reject(error, bytes)
      throw error
    }
`,
      },
    ],
    finding: /^group: .*has no JSON form/,
  },
  ...snapDefects,
  ...replicaDefects,
  ...stateDefects,
  ...viewDefects,
  ...queueDefects,
]
