import { Buffer } from 'node:buffer'
import { describe, expect, test } from 'vitest'
import { type CrashOptions, type File, SimulatedFileSystem } from '../../src/testing/index.ts'

async function createFile(files: SimulatedFileSystem, path: string, ...writes: string[]): Promise<File> {
  const file = await files.open(path, 'create')
  let position = 0
  for (const text of writes) position += await file.write(Buffer.from(text), position)
  return file
}

/** Every state as text: `name=content` for each file, sorted by name. */
function states(files: SimulatedFileSystem, options: CrashOptions = { tornVariants: [] }): string[] {
  return [...files.crashStates(options)].map(textOf)
}

function textOf(state: SimulatedFileSystem): string {
  const files = [...state.snapshot()]
  return files.map(([path, bytes]) => `${path.slice(1)}=${bytes.toString('latin1')}`).join(' ')
}

describe('what a crash keeps of a file', () => {
  test('bytes that were synced survive every crash, with sync and with dataSync', async () => {
    for (const how of ['sync', 'dataSync'] as const) {
      const files = new SimulatedFileSystem()
      const file = await createFile(files, '/a', 'one', 'two')
      await file[how]()
      await files.syncDirectory('/')
      expect(states(files, {})).toEqual(['a=onetwo'])
    }
  })

  test('bytes that were not synced survive as any prefix of the writes', async () => {
    const files = new SimulatedFileSystem()
    await createFile(files, '/a', 'one', 'two', 'six')
    await files.syncDirectory('/')
    expect(states(files)).toEqual(['a=', 'a=one', 'a=onetwo', 'a=onetwosix'])
  })

  test('only the writes since the last sync are in doubt', async () => {
    const files = new SimulatedFileSystem()
    const file = await createFile(files, '/a', 'one')
    await files.syncDirectory('/')
    await file.sync()
    await file.write(Buffer.from('two'), 3)
    expect(states(files)).toEqual(['a=one', 'a=onetwo'])
  })

  test('a truncation is in doubt until a sync, in order with the writes', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', 'abcdef')
    const file = await files.open('/a', 'write')
    await file.truncate(2)
    await file.write(Buffer.from('XYZ'), 2)
    expect(states(files)).toEqual(['a=abcdef', 'a=ab', 'a=abXYZ'])
    await file.sync()
    expect(states(files)).toEqual(['a=abXYZ'])
  })

  test('files are in doubt independently of one another', async () => {
    const files = new SimulatedFileSystem()
    await createFile(files, '/a', '1')
    await createFile(files, '/b', '2')
    await files.syncDirectory('/')
    expect(states(files).toSorted()).toEqual(['a= b=', 'a= b=2', 'a=1 b=', 'a=1 b=2'])
  })

  test('a sync that was started but not awaited has done nothing yet', async () => {
    const files = new SimulatedFileSystem()
    const file = await createFile(files, '/a', 'one')
    const syncs = [file.sync(), files.syncDirectory('/')]
    for (let i = 0; i < 10; i += 1) await Promise.resolve()
    expect(states(files).toSorted()).toEqual(['', 'a=', 'a=one'])
    await Promise.all(syncs)
    expect(states(files)).toEqual(['a=one'])
  })
})

describe('torn writes', () => {
  async function tornStates(variant: 'cut' | 'zeros' | 'head-lost' | 'garbage' | 'garbage-newline') {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', 'OK\n')
    const file = await files.open('/a', 'write')
    await file.write(Buffer.from('abcdefgh\n'), 3)
    const all = states(files, { tornVariants: [variant] })
    const [before, ...torn] = all.map((state) => state.slice('a=OK\n'.length))
    expect(before).toBe('')
    expect(torn.pop()).toBe('abcdefgh\n')
    return torn
  }

  test('cut: the file ends after the first byte, inside and before the newline', async () => {
    expect(await tornStates('cut')).toEqual(['a', 'ab', 'abcd', 'abcdefg', 'abcdefgh'])
  })

  test('zeros: the length is right, and the bytes are NUL from some point on, possibly the start', async () => {
    const torn = await tornStates('zeros')
    expect(torn).toHaveLength(6)
    expect(torn[0]).toBe('\0'.repeat(9))
    expect(torn[1]).toBe(`a${'\0'.repeat(8)}`)
    expect(torn).toContain('abcdefgh\0')
  })

  test('head-lost: the first part is NUL, the rest is real', async () => {
    const torn = await tornStates('head-lost')
    expect(torn).toHaveLength(5)
    expect(torn[0]).toBe('\0bcdefgh\n')
    expect(torn).toContain(`${'\0'.repeat(8)}\n`)
  })

  test('garbage: the length is right, with other bytes from some point on and no newline', async () => {
    const torn = await tornStates('garbage')
    expect(torn).toHaveLength(6)
    for (const text of torn) {
      expect(text).toHaveLength(9)
      expect(text).not.toContain('\n')
    }
    expect(torn[1]).toMatch(/^a/)
    expect(torn[1]).not.toMatch(/^ab/)
  })

  test('garbage: has no newline even where an older torn write left one', async () => {
    const files = new SimulatedFileSystem()
    // A write that lost its beginning leaves these bytes. The same write is then made again.
    files.writeFile('/a', '\0\0\0\0\0\0\0\0\n')
    const file = await files.open('/a', 'write')
    await file.write(Buffer.from('abcdefgh\n'), 0)
    const [before, ...torn] = states(files, { tornVariants: ['garbage'] })
    expect(before).toBe('a=\0\0\0\0\0\0\0\0\n')
    expect(torn.length).toBeGreaterThan(4)
    for (const text of torn) expect(text).toMatch(/^a=(abcdefgh\n|[^\n]+)$/)
  })

  test('garbage-newline: the same, but the line looks complete', async () => {
    const torn = await tornStates('garbage-newline')
    // One byte of garbage is the final newline itself.
    expect(torn).toHaveLength(5)
    for (const text of torn) expect(text).toMatch(/^[^]{8}\n$/)
    expect(torn[0]).not.toMatch(/^a/)
  })

  test('the default is every variant except garbage-newline', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', '')
    const file = await files.open('/a', 'write')
    await file.write(Buffer.from('abcdefgh\n'), 0)
    // Nothing, everything, and 5 cut, 6 zeros, 5 head-lost, 6 garbage.
    expect(states(files, {})).toHaveLength(2 + 5 + 6 + 5 + 6)
    expect(states(files, { tornVariants: ['cut', 'garbage'] })).toHaveLength(2 + 5 + 6)
    expect(states(files, { tornVariants: [] })).toHaveLength(2)
  })

  test('a torn overwrite leaves old bytes, not NUL, where it did not reach', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', 'OLDOLD')
    const file = await files.open('/a', 'write')
    await file.write(Buffer.from('newnew'), 0)
    expect(states(files, { tornVariants: ['zeros'] })).toContain('a=newOLD')
    expect(states(files, { tornVariants: ['head-lost'] })).toContain('a=OLDnew')
  })

  test('every pending write may be the torn one, and nothing comes after it', async () => {
    const files = new SimulatedFileSystem()
    await createFile(files, '/a', 'xx', 'yy')
    await files.syncDirectory('/')
    expect(states(files, { tornVariants: ['cut'] })).toEqual(['a=', 'a=x', 'a=xx', 'a=xxy', 'a=xxyy'])
  })

  test('a long write is also torn at the page boundaries and around inner newlines', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', Buffer.alloc(4000))
    const file = await files.open('/a', 'write')
    const bytes = Buffer.alloc(9000, 'x')
    for (const at of [10, 5000, 8000]) bytes[at] = 0x0a
    await file.write(bytes, 4000)
    const all = [...files.crashStates({ tornVariants: ['cut'] })]
    const lengths = all.map((state) => state.readFile('/a').length)
    expect(lengths).toEqual(lengths.toSorted((a, b) => a - b))
    const boundaries = [4096, 12_288]
    const newlines = [4010, 4011, 9000, 9001, 12_000, 12_001]
    for (const length of [...boundaries, ...newlines]) expect(lengths).toContain(length)
  })
})

describe('what a crash keeps of names', () => {
  test('a new file may vanish with all its synced bytes until its directory is synced', async () => {
    const files = new SimulatedFileSystem()
    const file = await createFile(files, '/a', 'one')
    await file.sync()
    expect(states(files)).toEqual(['', 'a=one'])
    await files.syncDirectory('/')
    expect(states(files)).toEqual(['a=one'])
  })

  test('a durable name with unsynced bytes may lead to an empty file', async () => {
    const files = new SimulatedFileSystem()
    await createFile(files, '/a', 'one')
    await files.syncDirectory('/')
    expect(files.afterCrash({ keep: 'none' }).snapshot()).toEqual(new Map([['/a', Buffer.alloc(0)]]))
  })

  test('a rename is kept whole or not at all', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/next', 'new')
    files.writeFile('/now', 'old')
    await files.rename('/next', '/now')
    expect(states(files).toSorted()).toEqual(['next=new now=old', 'now=new'])
    await files.syncDirectory('/')
    expect(states(files)).toEqual(['now=new'])
  })

  test('an unlinked name may come back until its directory is synced', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', 'one')
    await files.unlink('/a')
    expect(states(files).toSorted()).toEqual(['', 'a=one'])
    await files.syncDirectory('/')
    expect(states(files)).toEqual([''])
  })

  test('any subset of the pending name changes may survive, even a later one without an earlier one', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', '1')
    files.writeFile('/b', '2')
    await files.rename('/a', '/c')
    await files.unlink('/b')
    expect(states(files).toSorted()).toEqual(['a=1', 'a=1 b=2', 'b=2 c=1', 'c=1'])
  })

  test('a rotation that does not sync between rename and create may lose the old file', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/log', 'old')
    await files.rename('/log', '/log.1')
    const file = await createFile(files, '/log', 'new')
    await file.sync()
    expect(states(files).toSorted()).toEqual(['log.1=old', 'log=new', 'log=new log.1=old', 'log=old'])
  })

  test('a rename without a sync of the file may leave an empty file under the new name', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/now', 'old')
    await createFile(files, '/next', 'new')
    await files.rename('/next', '/now')
    await files.syncDirectory('/')
    expect(states(files)).toEqual(['now=', 'now=new'])
  })

  test('a directory whose parent was not synced may vanish with everything in it', async () => {
    const files = new SimulatedFileSystem()
    await files.makeDirectory('/d')
    const file = await createFile(files, '/d/a', 'one')
    await file.sync()
    await files.syncDirectory('/d')
    expect([...files.crashStates()].map((state) => state.exists('/d/a'))).toEqual([false, true])
    await files.syncDirectory('/')
    expect(states(files)).toEqual(['d/a=one'])
  })

  test('a name in a new directory is in doubt separately from the directory', async () => {
    const files = new SimulatedFileSystem()
    await files.makeDirectory('/d')
    await createFile(files, '/d/a')
    const seen = [...files.crashStates()].map((state) => [state.exists('/d'), state.exists('/d/a')])
    expect(seen).toEqual([
      [false, false],
      [true, false],
      [true, true],
    ])
  })

  test('half of two renames may leave one file with two names, unlike two equal files', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', '')
    await files.rename('/a', '/b')
    await files.rename('/b', '/c')
    await files.unlink('/c')
    await createFile(files, '/c')
    const inodes: boolean[] = []
    for (const state of files.crashStates()) {
      if (textOf(state) !== 'a= c=') continue
      inodes.push((await state.stat('/a')).inode === (await state.stat('/c')).inode)
    }
    expect(inodes).toHaveLength(2)
    expect(new Set(inodes).size).toBe(2)
  })

  test('syncing a directory settles its own names only', async () => {
    const files = new SimulatedFileSystem()
    files.addDirectory('/d')
    await createFile(files, '/a')
    await createFile(files, '/d/b')
    await files.syncDirectory('/d')
    expect(states(files)).toEqual(['d/b=', 'a= d/b='])
  })
})

describe('after a crash', () => {
  test('keep none leaves what is durable, keep all what is visible, and the result is durable', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', 'one')
    const file = await files.open('/a', 'write')
    await file.write(Buffer.from('two'), 3)
    await createFile(files, '/b')
    const none = files.afterCrash({ keep: 'none' })
    const all = files.afterCrash({ keep: 'all' })
    expect(textOf(none)).toBe('a=one')
    expect(textOf(all)).toBe('a=onetwo b=')
    expect(states(none)).toEqual(['a=one'])
    expect(states(all)).toEqual(['a=onetwo b='])
  })

  test('a killed process leaves everything visible and pending, and nothing open or locked', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', 'one')
    const file = await files.open('/a', 'write')
    await file.write(Buffer.from('two'), 3)
    await createFile(files, '/b')
    expect(await files.lock(file)).toBe(true)
    const killed = files.afterKill()
    expect(textOf(killed)).toBe('a=onetwo b=')
    expect(states(killed).toSorted()).toEqual(states(files).toSorted())
    expect(states(killed)).toHaveLength(4)
    const reopened = await killed.open('/a', 'write')
    expect(await killed.lock(reopened)).toBe(true)
    await reopened.sync()
    expect(textOf(killed.afterCrash({ keep: 'none' }))).toBe('a=onetwo')
    expect(textOf(files.afterCrash({ keep: 'none' }))).toBe('a=one')
  })

  test('states share nothing with the original or with each other', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/d/a', 'one')
    const original = await files.open('/d/a', 'write')
    await original.write(Buffer.from('two'), 3)
    const [first, second] = [...files.crashStates({ tornVariants: [] })]
    if (first === undefined || second === undefined) throw new Error('Expected two states')
    const file = await first.open('/d/a', 'write')
    await file.write(Buffer.from('XXXXXXXXX'), 0)
    await file.sync()
    await first.unlink('/d/a')
    await createFile(second, '/d/b')
    await original.write(Buffer.from('ZZZ'), 0)
    expect(textOf(first)).toBe('')
    expect(textOf(second)).toBe('d/a=onetwo d/b=')
    expect(textOf(files)).toBe('d/a=ZZZtwo')
  })

  test('a sync in one state or in the original makes nothing durable elsewhere', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', 'one')
    await createFile(files, '/b')
    const original = await files.open('/a', 'write')
    const [first, second] = [...files.crashStates()]
    if (first === undefined || second === undefined) throw new Error('Expected two states')
    const file = await first.open('/a', 'write')
    for (const each of [file, original]) {
      await each.write(Buffer.from('X'), 0)
      await each.sync()
      expect(textOf(second.afterCrash({ keep: 'none' }))).toBe('a=one b=')
    }
    await original.write(Buffer.from('Y'), 0)
    await original.sync()
    expect(textOf(first.afterCrash({ keep: 'none' }))).toBe('a=Xne')
  })

  test('a state taken before a sync does not see what the sync made durable', async () => {
    const files = new SimulatedFileSystem()
    const file = await createFile(files, '/a', 'one')
    await file.sync()
    await files.syncDirectory('/')
    await file.write(Buffer.from('two'), 0)
    const state = files.afterCrash({ keep: 'none' })
    await file.sync()
    expect(textOf(state)).toBe('a=one')
  })

  test('states reflect the moment of the call, however late they are taken', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', 'one')
    const file = await files.open('/a', 'write')
    await file.write(Buffer.from('two'), 3)
    const later = files.crashStates({ tornVariants: [] })
    await file.truncate(0)
    await file.sync()
    await files.unlink('/a')
    expect([...later].map(textOf)).toEqual(['a=one', 'a=onetwo'])
  })

  test('a state inherits no faults, lock, stop or operation count from the original', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', 'one')
    expect(await files.lock(await files.open('/a', 'write'))).toBe(true)
    files.failOn({ times: 'always' }, 'EIO')
    files.stopAt(2)
    const state = files.afterCrash({ keep: 'all' })
    expect(state.operations).toBe(0)
    expect(await state.lock(await state.open('/a', 'write'))).toBe(true)
    expect(state.operations).toBe(2)
    await expect(state.stat('/a')).resolves.toMatchObject({ size: 3 })
  })
})

describe('the choice of states', () => {
  async function busyDisk(): Promise<SimulatedFileSystem> {
    const files = new SimulatedFileSystem()
    for (let i = 0; i < 12; i += 1) await createFile(files, `/file-${i}`, `first ${i}\n`, `second ${i}\n`)
    return files
  }

  test('no two states are equal', async () => {
    const files = new SimulatedFileSystem()
    await createFile(files, '/a', 'aa', 'aa')
    await createFile(files, '/b', '\0\0')
    for (const limit of [20, Infinity]) {
      const all = states(files, { limit })
      expect(all.length).toBeGreaterThan(10)
      expect(new Set(all).size).toBe(all.length)
    }
  })

  test('below the limit every state is returned', async () => {
    const files = new SimulatedFileSystem()
    for (const name of ['/a', '/b', '/c']) await createFile(files, name, 'x')
    // Each file is missing, empty or whole, independently of the others.
    expect(states(files)).toHaveLength(27)
    expect(states(files, { tornVariants: [], limit: 64 })).toHaveLength(27)
  })

  test('above the limit there are exactly that many states, including those that keep least and most', async () => {
    const files = await busyDisk()
    const sample = states(files, { limit: 200 })
    expect(sample).toHaveLength(200)
    expect(sample).toContain(textOf(files.afterCrash({ keep: 'none' })))
    expect(sample).toContain(textOf(files.afterCrash({ keep: 'all' })))
  })

  test('equal seeds give equal states, other seeds give others', async () => {
    const files = await busyDisk()
    const sample = states(files, { limit: 200, seed: 7 })
    expect(states(files, { limit: 200, seed: 7 })).toEqual(sample)
    expect(states(await busyDisk(), { limit: 200, seed: 7 })).toEqual(sample)
    expect(states(files, { limit: 200, seed: 8 })).not.toEqual(sample)
  })

  test('garbage depends on the seed', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', '')
    await (await files.open('/a', 'write')).write(Buffer.from('abcdefgh\n'), 0)
    const garbage = states(files, { tornVariants: ['garbage'] })
    expect(states(files, { tornVariants: ['garbage'], seed: 1 })).toEqual(garbage)
    expect(states(files, { tornVariants: ['garbage'], seed: 2 })).not.toEqual(garbage)
  })

  test('a sample tears writes of every file', async () => {
    const files = await busyDisk()
    await files.syncDirectory('/')
    const sample = states(files, { limit: 1000, tornVariants: ['cut'] })
    for (let i = 0; i < 12; i += 1) {
      const torn = new RegExp(`file-${i}=first ${i}\ns( |$)`)
      expect(sample.some((state) => torn.test(state))).toBe(true)
    }
  })

  test('states are made lazily', async () => {
    const files = await busyDisk()
    // More than nine million states: only a lazy generator returns here.
    for (const state of files.crashStates({ limit: Infinity, tornVariants: [] })) {
      expect(textOf(state)).toBe('')
      break
    }
    expect.assertions(1)
  })

  test('invalid options are refused at the call', () => {
    const files = new SimulatedFileSystem()
    expect(() => files.crashStates({ limit: 0 })).toThrow('`limit`')
    expect(() => files.crashStates({ seed: 0.5 })).toThrow('`seed`')
    // @ts-expect-error there is no such variant
    expect(() => files.crashStates({ tornVariants: ['tear'] })).toThrow('`tear`')
    // @ts-expect-error the option is called tornVariants
    expect(() => files.crashStates({ torn: [] })).toThrow('`torn`')
  })
})
