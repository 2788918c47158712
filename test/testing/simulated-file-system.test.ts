import { Buffer } from 'node:buffer'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { SimulatedFileSystem } from '../../src/testing/index.ts'

async function textOf(files: SimulatedFileSystem, path: string): Promise<string> {
  const file = await files.open(path, 'read')
  const buffer = Buffer.alloc(1000)
  const length = await file.read(buffer, 0)
  await file.close()
  return buffer.toString('utf8', 0, length)
}

describe('files', () => {
  test('written bytes can be read back, in pieces and at any position', async () => {
    const files = new SimulatedFileSystem()
    const file = await files.open('/a', 'create')
    expect(await file.write(Buffer.from('hello'), 0)).toBe(5)
    expect(await file.write(Buffer.from('HE'), 0)).toBe(2)
    expect(await file.write(Buffer.from('!'), 7)).toBe(1)
    const buffer = Buffer.alloc(4)
    expect(await file.read(buffer, 0)).toBe(4)
    expect(buffer.toString()).toBe('HEll')
    expect(await file.read(buffer, 4)).toBe(4)
    expect(buffer.toString()).toBe('o\0\0!')
    expect(await file.read(buffer, 7)).toBe(1)
    expect(await file.read(buffer, 8)).toBe(0)
    expect(await file.read(buffer, 80)).toBe(0)
    expect((await file.stat()).size).toBe(8)
  })

  test('write returns a number synchronously', async () => {
    const file = await new SimulatedFileSystem().open('/a', 'create')
    expect(file.write(Buffer.from('abc'), 0)).toBe(3)
  })

  test('bytes cut off by truncate do not come back when the file grows again', async () => {
    const files = new SimulatedFileSystem()
    const file = await files.open('/a', 'create')
    await file.write(Buffer.from('abcdef'), 0)
    await file.truncate(2)
    expect(files.readFile('/a').toString()).toBe('ab')
    await file.write(Buffer.from('Z'), 4)
    expect(files.readFile('/a').toString()).toBe('ab\0\0Z')
    await file.truncate(2)
    await file.truncate(5)
    expect(files.readFile('/a').toString()).toBe('ab\0\0\0')
  })

  test('the caller may use its buffer again after a write, before and after a crash', async () => {
    const files = new SimulatedFileSystem()
    const file = await files.open('/a', 'create')
    const buffer = Buffer.from('good')
    await file.write(buffer, 0)
    buffer.fill('x')
    expect(files.readFile('/a').toString()).toBe('good')
    await file.sync()
    await files.syncDirectory('/')
    expect(files.afterCrash({ keep: 'none' }).readFile('/a').toString()).toBe('good')
  })

  test('create refuses a taken name, ensure opens or creates, read and write need a file', async () => {
    const files = new SimulatedFileSystem()
    await expect(files.open('/a', 'read')).rejects.toMatchObject({ code: 'ENOENT', path: '/a' })
    await expect(files.open('/a', 'write')).rejects.toMatchObject({ code: 'ENOENT' })
    await files.open('/a', 'ensure')
    await expect(files.open('/a', 'create')).rejects.toMatchObject({ code: 'EEXIST', errno: -17 })
    files.writeFile('/a', 'kept')
    await files.open('/a', 'ensure')
    expect(files.readFile('/a').toString()).toBe('kept')
  })

  test('a file opened for reading refuses changes', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', 'abc')
    const file = await files.open('/a', 'read')
    await expect(file.write(Buffer.from('x'), 0)).rejects.toMatchObject({ code: 'EBADF', syscall: 'write' })
    await expect(file.truncate(0)).rejects.toMatchObject({ code: 'EBADF' })
    await expect(file.dataSync()).rejects.toMatchObject({ code: 'EBADF' })
    await expect(files.lock(file)).rejects.toMatchObject({ code: 'EBADF' })
    expect(files.readFile('/a').toString()).toBe('abc')
  })

  test('every call on a closed file fails with EBADF', async () => {
    const files = new SimulatedFileSystem()
    const file = await files.open('/a', 'create')
    await file.close()
    const badFile = { code: 'EBADF', errno: -9 }
    await expect(file.read(Buffer.alloc(1), 0)).rejects.toMatchObject(badFile)
    await expect(file.write(Buffer.alloc(1), 0)).rejects.toMatchObject(badFile)
    await expect(file.truncate(0)).rejects.toMatchObject(badFile)
    await expect(file.sync()).rejects.toMatchObject(badFile)
    await expect(file.dataSync()).rejects.toMatchObject(badFile)
    await expect(file.stat()).rejects.toMatchObject(badFile)
    await expect(file.close()).rejects.toMatchObject(badFile)
    await expect(files.lock(file)).rejects.toMatchObject(badFile)
  })

  test('an open directory supports stat, sync and close, and nothing else', async () => {
    const files = new SimulatedFileSystem()
    files.addDirectory('/d')
    const directory = await files.open('/d', 'directory')
    const { inode, device } = await files.stat('/d')
    expect(await directory.stat()).toMatchObject({ isDirectory: true, inode, device })
    await expect(directory.read(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'EISDIR' })
    await expect(directory.write(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'EBADF' })
    await expect(directory.truncate(0)).rejects.toMatchObject({ code: 'EINVAL' })
    for (const sync of ['sync', 'dataSync'] as const) {
      await (await files.open(`/d/${sync}`, 'create')).close()
      await directory[sync]()
    }
    expect(files.afterCrash({ keep: 'none' }).names('/d')).toEqual(['dataSync', 'sync'])
    await directory.close()
    for (const call of ['stat', 'sync', 'dataSync', 'close'] as const) {
      await expect(directory[call](), call).rejects.toMatchObject({ code: 'EBADF' })
    }
  })

  test('overlapping calls on one file are refused, but close waits for the call in progress', async () => {
    const files = new SimulatedFileSystem()
    const file = await files.open('/a', 'create')
    await file.write(Buffer.from('abc'), 0)
    const sync = file.sync()
    await expect(file.write(Buffer.from('d'), 3)).rejects.toThrow('write began while sync was under way')
    const applied: string[] = []
    files.onOperation(({ operation }) => applied.push(operation))
    const closed = file.close()
    await expect(sync).resolves.toBeUndefined()
    await expect(closed).resolves.toBeUndefined()
    expect(applied).toEqual(['sync', 'close'])
  })

  test('invalid positions fail with EINVAL', async () => {
    const file = await new SimulatedFileSystem().open('/a', 'create')
    await expect(file.write(Buffer.from('x'), -1)).rejects.toMatchObject({ code: 'EINVAL' })
    await expect(file.read(Buffer.alloc(1), Number.NaN)).rejects.toMatchObject({ code: 'EINVAL' })
    await expect(file.truncate(0.5)).rejects.toMatchObject({ code: 'EINVAL' })
  })
})

describe('names', () => {
  test('directories nest, list their names and are distinct from files', async () => {
    const files = new SimulatedFileSystem()
    await files.makeDirectory('/d')
    await files.makeDirectory('/d/e')
    await files.open('/d/f', 'create')
    expect((await files.list('/d')).toSorted()).toEqual(['e', 'f'])
    expect(await files.list('/')).toEqual(['d'])
    expect(await files.stat('/d/e')).toMatchObject({ isDirectory: true })
    expect(await files.stat('/d/f')).toMatchObject({ isDirectory: false, size: 0 })
    await expect(files.makeDirectory('/d')).rejects.toMatchObject({ code: 'EEXIST', syscall: 'mkdir' })
    await expect(files.makeDirectory('/x/y')).rejects.toMatchObject({ code: 'ENOENT' })
    await expect(files.list('/x')).rejects.toMatchObject({ code: 'ENOENT', syscall: 'scandir' })
    await expect(files.list('/d/f')).rejects.toMatchObject({ code: 'ENOTDIR' })
    await expect(files.stat('/d/f/g')).rejects.toMatchObject({ code: 'ENOTDIR' })
    await expect(files.open('/d', 'read')).rejects.toMatchObject({ code: 'EISDIR' })
    await expect(files.unlink('/d')).rejects.toMatchObject({ code: 'EISDIR' })
    await expect(files.syncDirectory('/x')).rejects.toMatchObject({ code: 'ENOENT' })
  })

  test('paths are normalised, and realPath returns the normal form of an existing path', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/d/a', 'x')
    expect(await files.realPath('/d/../d//./a')).toBe('/d/a')
    expect(await files.realPath('d/')).toBe('/d')
    await expect(files.realPath('/d/b')).rejects.toMatchObject({ code: 'ENOENT', syscall: 'realpath' })
  })

  test('rename replaces the target in one step and keeps the inode', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/new', 'new')
    files.writeFile('/old', 'old')
    const { inode } = await files.stat('/new')
    await files.rename('/new', '/old')
    expect(files.names('/')).toEqual(['old'])
    expect(await textOf(files, '/old')).toBe('new')
    expect(await files.stat('/old')).toMatchObject({ inode })
  })

  test('rename refuses what Linux refuses', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/d/a', '')
    files.writeFile('/e/b', '')
    files.writeFile('/f', '')
    await expect(files.rename('/f', '/d/f')).rejects.toMatchObject({ code: 'EXDEV', dest: '/d/f' })
    await expect(files.rename('/x', '/y')).rejects.toMatchObject({ code: 'ENOENT', syscall: 'rename' })
    await expect(files.rename('/f', '/d')).rejects.toMatchObject({ code: 'EISDIR' })
    await expect(files.rename('/d', '/f')).rejects.toMatchObject({ code: 'ENOTDIR' })
    await expect(files.rename('/d', '/e')).rejects.toMatchObject({ code: 'ENOTEMPTY' })
  })

  test('renaming a file to its own name changes nothing', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', 'x')
    await files.rename('/a', '/a')
    expect(files.names('/')).toEqual(['a'])
    await files.open('/b', 'create')
    expect((await files.stat('/b')).inode).not.toBe((await files.stat('/a')).inode)
  })

  test('an open file stays readable after its name is removed or replaced', async () => {
    const files = new SimulatedFileSystem()
    files.writeFile('/a', 'first')
    files.writeFile('/b', 'second')
    const removed = await files.open('/a', 'read')
    const replaced = await files.open('/b', 'read')
    await files.unlink('/a')
    files.writeFile('/c', 'third')
    await files.rename('/c', '/b')
    const buffer = Buffer.alloc(6)
    expect(await removed.read(buffer, 0)).toBe(5)
    expect(buffer.toString('utf8', 0, 5)).toBe('first')
    expect(await replaced.read(buffer, 0)).toBe(6)
    expect(buffer.toString()).toBe('second')
  })

  test('an inode number is reused, but not while the file is open', async () => {
    const files = new SimulatedFileSystem()
    const file = await files.open('/a', 'create')
    const { inode } = await file.stat()
    await files.unlink('/a')
    await files.open('/b', 'create')
    expect((await files.stat('/b')).inode).not.toBe(inode)
    await file.close()
    await files.open('/c', 'create')
    expect((await files.stat('/c')).inode).toBe(inode)
  })

  test('no two file systems share a device number, crash states included', async () => {
    const files = new SimulatedFileSystem()
    const others = [files.afterKill(), files.afterCrash({ keep: 'all' }), new SimulatedFileSystem()]
    const devices = [files, ...others].map(async (each) => (await each.stat('/')).device)
    expect(new Set(await Promise.all(devices)).size).toBe(4)
  })
})

describe('locks', () => {
  test('one open file of an inode holds the lock until it is closed', async () => {
    const files = new SimulatedFileSystem()
    const first = await files.open('/lock', 'ensure')
    const second = await files.open('/lock', 'ensure')
    expect(await files.lock(first)).toBe(true)
    expect(await files.lock(first)).toBe(true)
    expect(await files.lock(second)).toBe(false)
    await first.close()
    expect(await files.lock(second)).toBe(true)
  })

  test('closing a file that does not hold the lock does not free it', async () => {
    const files = new SimulatedFileSystem()
    const [first, second, third] = await Promise.all([1, 2, 3].map(() => files.open('/lock', 'ensure')))
    if (first === undefined || second === undefined || third === undefined) throw new Error('unreachable')
    expect(await files.lock(first)).toBe(true)
    await second.close()
    expect(await files.lock(third)).toBe(false)
  })

  test('a lock follows the inode and not the name', async () => {
    const files = new SimulatedFileSystem()
    const first = await files.open('/lock', 'create')
    expect(await files.lock(first)).toBe(true)
    await files.unlink('/lock')
    expect(await files.lock(await files.open('/lock', 'create'))).toBe(true)
  })

  test('a file of another file system is refused', async () => {
    const file = await new SimulatedFileSystem().open('/a', 'create')
    await expect(new SimulatedFileSystem().lock(file)).rejects.toThrow(TypeError)
  })
})

describe('watching', () => {
  test('reports changes of names and bytes later, one report for many, until it is stopped', async () => {
    const files = new SimulatedFileSystem()
    files.addDirectory('/d')
    files.addDirectory('/other')
    let calls = 0
    const stop = files.watch('/d', () => {
      calls += 1
    })
    const file = await files.open('/d/a', 'create')
    await file.write(Buffer.from('x'), 0)
    expect(calls).toBe(0)
    await nextTurn()
    expect(calls).toBe(1)
    await file.write(Buffer.from('y'), 1)
    await nextTurn()
    expect(calls).toBe(2)
    await files.rename('/d/a', '/d/b')
    await nextTurn()
    expect(calls).toBe(3)
    await file.truncate(1)
    await nextTurn()
    expect(calls).toBe(4)
    await files.open('/d/c', 'create')
    await nextTurn()
    expect(calls).toBe(5)
    await files.open('/other/a', 'create')
    await nextTurn()
    expect(calls).toBe(5)
    await files.unlink('/d/b')
    stop()
    await nextTurn()
    expect(calls).toBe(5)
  })

  test('a directory that does not exist gives no hints', async () => {
    const files = new SimulatedFileSystem()
    let calls = 0
    const stop = files.watch('/d', () => calls++)
    await files.makeDirectory('/d')
    await files.open('/d/a', 'create')
    await nextTurn()
    expect(calls).toBe(0)
    stop()
  })
})

describe('helpers', () => {
  test('writeFile is visible and durable with its directories, also over pending changes', async () => {
    const files = new SimulatedFileSystem()
    await files.makeDirectory('/d')
    const file = await files.open('/d/a', 'create')
    await file.write(Buffer.from('pending'), 0)
    files.writeFile('/d/a', 'durable')
    files.writeFile('/x/y/z', Buffer.from([1, 2]))
    expect(files.readFile('/d/a').toString()).toBe('durable')
    const crashed = files.afterCrash({ keep: 'none' })
    expect(crashed.snapshot()).toEqual(
      new Map([
        ['/d/a', Buffer.from('durable')],
        ['/x/y/z', Buffer.from([1, 2])],
      ]),
    )
  })

  test('snapshot, readFile, names and exists return copies of what is visible', async () => {
    const files = new SimulatedFileSystem()
    const file = await files.open('/a', 'create')
    await file.write(Buffer.from('abc'), 0)
    const snapshot = files.snapshot()
    files.readFile('/a').fill(0)
    snapshot.get('/a')?.fill(0)
    expect(files.readFile('/a').toString()).toBe('abc')
    expect(files.names('/')).toEqual(['a'])
    expect(files.exists('/a')).toBe(true)
    expect(files.exists('/b')).toBe(false)
    expect(() => files.readFile('/b')).toThrow('ENOENT')
    expect(() => files.writeFile('/a/b', '')).toThrow('ENOTDIR')
  })

  test('misspelled options are refused by name', () => {
    // @ts-expect-error the option is called capacityBytes
    expect(() => new SimulatedFileSystem({ capacity: 5 })).toThrow('`capacity`')
  })
})
