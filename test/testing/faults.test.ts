import { Buffer } from 'node:buffer'
import { describe, expect, test } from 'vitest'
import { type File, SimulatedFileSystem, type SystemErrorCode } from '../../src/testing/index.ts'

/** A file system with one durable file, open for writing. */
async function withFile(content = ''): Promise<{ files: SimulatedFileSystem; file: File }> {
  const files = new SimulatedFileSystem()
  files.writeFile('/a', content)
  return { files, file: await files.open('/a', 'write') }
}

function durableText(files: SimulatedFileSystem): string {
  return files.afterCrash({ keep: 'none' }).readFile('/a').toString()
}

describe('failing operations', () => {
  test('by default only the first matching operation fails, without effect', async () => {
    const { files, file } = await withFile()
    const fault = files.failOn({ operation: 'write' }, 'EIO')
    expect(fault.hits).toBe(0)
    await expect(file.write(Buffer.from('abc'), 0)).rejects.toMatchObject({ code: 'EIO', syscall: 'write' })
    expect(files.readFile('/a')).toHaveLength(0)
    expect(await file.write(Buffer.from('abc'), 0)).toBe(3)
    expect(fault.hits).toBe(1)
  })

  test('nth counts matching operations from now on, and times is how many fail from there', async () => {
    const { files, file } = await withFile()
    files.failOn({ operation: 'truncate', nth: 3, times: 2 }, 'EIO')
    const outcomes: string[] = []
    for (let length = 0; length < 6; length += 1) {
      await file.stat()
      await file.truncate(length).then(
        () => outcomes.push('ok'),
        () => outcomes.push('failed'),
      )
    }
    expect(outcomes).toEqual(['ok', 'ok', 'failed', 'failed', 'ok', 'ok'])
  })

  test('always fails until it is removed', async () => {
    const { files, file } = await withFile()
    const fault = files.failOn({ operation: ['truncate', 'stat'], times: 'always' }, 'EIO')
    for (let i = 0; i < 5; i += 1) await expect(file.truncate(0)).rejects.toMatchObject({ code: 'EIO' })
    await expect(files.stat('/a')).rejects.toMatchObject({ code: 'EIO' })
    await expect(files.realPath('/a')).resolves.toBe('/a')
    expect(fault.hits).toBe(6)
    fault.remove()
    await expect(file.truncate(0)).resolves.toBeUndefined()
  })

  test('a path or a pattern chooses files, and either name of a rename fits', async () => {
    const { files } = await withFile()
    files.writeFile('/b', '')
    files.failOn({ path: '/x/../b', times: 'always' }, 'EACCES')
    await expect(files.stat('/a')).resolves.toBeDefined()
    await expect(files.stat('/b')).rejects.toMatchObject({ code: 'EACCES', path: '/b' })
    await expect(files.rename('/a', '/b')).rejects.toMatchObject({ code: 'EACCES', path: '/a', dest: '/b' })
    files.clearFaults()
    files.failOn({ path: /B$/gi, times: 'always' }, 'EACCES')
    await expect(files.stat('/a')).resolves.toBeDefined()
    await expect(files.stat('/b')).rejects.toMatchObject({ code: 'EACCES' })
    await expect(files.stat('/b')).rejects.toMatchObject({ code: 'EACCES' })
  })

  test('an open file is known by its newest name', async () => {
    const { files, file } = await withFile()
    await files.rename('/a', '/b')
    files.failOn({ operation: 'write', path: '/a', times: 'always' }, 'EIO')
    expect(await file.write(Buffer.from('x'), 0)).toBe(1)
    files.failOn({ operation: 'write', path: '/b' }, 'EIO')
    await expect(file.write(Buffer.from('x'), 0)).rejects.toMatchObject({ code: 'EIO' })
  })

  test('a function chooses operations', async () => {
    const { files, file } = await withFile()
    files.failOn((operation) => operation.operation === 'write' && operation.position === 4, 'EIO')
    expect(await file.write(Buffer.from('abcd'), 0)).toBe(4)
    await expect(file.write(Buffer.from('e'), 4)).rejects.toMatchObject({ code: 'EIO' })
    await expect(file.write(Buffer.from('e'), 4)).rejects.toMatchObject({ code: 'EIO' })
  })

  test('every operation can fail', async () => {
    const { files, file } = await withFile()
    const calls: Record<string, () => unknown> = {
      open: () => files.open('/b', 'create'),
      list: () => files.list('/'),
      stat: () => files.stat('/a'),
      realPath: () => files.realPath('/a'),
      rename: () => files.rename('/a', '/b'),
      unlink: () => files.unlink('/a'),
      makeDirectory: () => files.makeDirectory('/d'),
      syncDirectory: () => files.syncDirectory('/'),
      lock: () => files.lock(file),
      read: () => file.read(Buffer.alloc(1), 0),
      write: () => file.write(Buffer.alloc(1), 0),
      truncate: () => file.truncate(5),
      sync: () => file.sync(),
      dataSync: () => file.dataSync(),
      close: () => file.close(),
    }
    for (const [operation, call] of Object.entries(calls)) {
      const fault = files.failOn(({ operation: name }) => name === operation, 'EIO')
      await expect(call(), operation).rejects.toMatchObject({ code: 'EIO', errno: -5 })
      fault.remove()
    }
    expect(files.names('/')).toEqual(['a'])
    expect(files.readFile('/a')).toHaveLength(0)
  })

  test('a close that fails has closed the file and freed its lock', async () => {
    const { files, file } = await withFile()
    expect(await files.lock(file)).toBe(true)
    files.failOn({ operation: 'close' }, 'EIO')
    await expect(file.close()).rejects.toMatchObject({ code: 'EIO' })
    await expect(file.stat()).rejects.toMatchObject({ code: 'EBADF' })
    expect(await files.lock(await files.open('/a', 'write'))).toBe(true)
  })

  test('of several faults on one operation the first one applies, and all of them keep counting', async () => {
    const { files, file } = await withFile()
    files.failOn({ operation: 'truncate' }, 'EIO')
    files.failOn({ operation: 'truncate', times: 2 }, 'EFBIG')
    await expect(file.truncate(1)).rejects.toMatchObject({ code: 'EIO' })
    await expect(file.truncate(1)).rejects.toMatchObject({ code: 'EFBIG' })
    await expect(file.truncate(1)).resolves.toBeUndefined()
  })

  test('invalid fault rules are refused', () => {
    const files = new SimulatedFileSystem()
    expect(() => files.failOn({ nth: 0 }, 'EIO')).toThrow('`nth`')
    expect(() => files.failOn({ times: 0 }, 'EIO')).toThrow('`times`')
    expect(() => files.shortWriteOn({ bytes: -1 })).toThrow('`bytes`')
    // @ts-expect-error there is no such error
    expect(() => files.failOn({}, 'EWHATEVER')).toThrow('EWHATEVER')
    // @ts-expect-error the field is called operation
    expect(() => files.failOn({ operations: 'write' }, 'EIO')).toThrow('`operations`')
  })
})

describe('the shape of errors', () => {
  test('matches that of Node, on paths and on open files', async () => {
    const { files, file } = await withFile()
    files.failOn({ times: 'always' }, 'ENOSPC')
    await expect(files.open('/b', 'create')).rejects.toMatchObject({
      message: "ENOSPC: no space left on device, open '/b'",
      code: 'ENOSPC',
      errno: -28,
      syscall: 'open',
      path: '/b',
    })
    const message = "ENOSPC: no space left on device, rename '/a' -> '/b'"
    await expect(files.rename('/a', '/b')).rejects.toThrow(message)
    const onFile = await Promise.resolve(file.write(Buffer.from('x'), 0)).catch((error: unknown) => error)
    expect(onFile).toBeInstanceOf(Error)
    expect(onFile).toMatchObject({ message: 'ENOSPC: no space left on device, write', syscall: 'write' })
    expect(onFile).not.toHaveProperty('path')
  })

  test('EDQUOT has no name, as on Node 20', async () => {
    const { files, file } = await withFile()
    files.failOn({ operation: 'write' }, 'EDQUOT')
    await expect(file.write(Buffer.from('x'), 0)).rejects.toMatchObject({
      message: 'Unknown system error -122: Unknown system error -122, write',
      code: 'Unknown system error -122',
      errno: -122,
      syscall: 'write',
    })
  })

  test('has a negative errno for every code', async () => {
    const { files, file } = await withFile()
    const codes: SystemErrorCode[] = [
      ...(['EACCES', 'EBADF', 'EBUSY', 'EDQUOT', 'EEXIST', 'EFBIG', 'EINTR', 'EINVAL', 'EIO'] as const),
      ...(['EISDIR', 'EMFILE', 'ENFILE', 'ENOENT', 'ENOMEM', 'ENOSPC', 'ENOTDIR'] as const),
      ...(['ENOTEMPTY', 'ENOTSUP', 'EPERM', 'EROFS', 'EXDEV'] as const),
    ]
    const numbers = new Set<number>()
    for (const code of codes) {
      files.failOn({ operation: 'truncate' }, code)
      const error: unknown = await file.truncate(0).catch((thrown: unknown) => thrown)
      const errno = error instanceof Error && 'errno' in error ? Number(error.errno) : 0
      expect(errno).toBeLessThan(0)
      numbers.add(errno)
    }
    expect(numbers.size).toBe(codes.length)
  })

  test('an Error passed by the test is thrown unchanged', async () => {
    const { files } = await withFile()
    const mine = new Error('mine')
    files.failOn({ operation: 'unlink' }, mine)
    await expect(files.unlink('/a')).rejects.toBe(mine)
  })
})

describe('short writes', () => {
  test('write fewer bytes than asked, without an error', async () => {
    const { files, file } = await withFile()
    const fault = files.shortWriteOn({ nth: 2, bytes: 2 })
    expect(await file.write(Buffer.from('abcd'), 0)).toBe(4)
    expect(await file.write(Buffer.from('efgh'), 4)).toBe(2)
    expect(await file.write(Buffer.from('gh'), 6)).toBe(2)
    expect(files.readFile('/a').toString()).toBe('abcdefgh')
    expect(fault.hits).toBe(1)
  })

  test('always: every write is short', async () => {
    const { files, file } = await withFile()
    files.shortWriteOn({ path: /a/, times: 'always', bytes: 1 })
    expect(await file.write(Buffer.from('abcd'), 0)).toBe(1)
    expect(await file.write(Buffer.from('bcd'), 1)).toBe(1)
    expect(files.readFile('/a').toString()).toBe('ab')
  })

  test('a failing write can write some bytes first and fail when it is continued', async () => {
    const { files, file } = await withFile()
    files.failOn({ operation: 'write', nth: 2, times: 2 }, 'ENOSPC', { bytesFirst: 3 })
    expect(await file.write(Buffer.from('ab'), 0)).toBe(2)
    expect(await file.write(Buffer.from('cdefg'), 2)).toBe(3)
    await expect(file.write(Buffer.from('fg'), 5)).rejects.toMatchObject({ code: 'ENOSPC' })
    await expect(file.write(Buffer.from('fg'), 5)).rejects.toMatchObject({ code: 'ENOSPC' })
    expect(await file.write(Buffer.from('fg'), 5)).toBe(2)
    expect(files.readFile('/a').toString()).toBe('abcdefg')
  })
})

describe('a failed sync', () => {
  test('loses the pending bytes: they stay visible, and no later sync makes them durable', async () => {
    for (const how of ['sync', 'dataSync'] as const) {
      const { files, file } = await withFile('one')
      await file.write(Buffer.from('two'), 3)
      files.failOn({ operation: how }, 'EIO')
      await expect(file[how]()).rejects.toMatchObject({ code: 'EIO' })
      expect(files.readFile('/a').toString()).toBe('onetwo')
      await expect(file[how]()).resolves.toBeUndefined()
      expect(files.readFile('/a').toString()).toBe('onetwo')
      expect(durableText(files)).toBe('one')
    }
  })

  test('a crash may have kept any part of the lost bytes', async () => {
    const { files, file } = await withFile()
    await file.write(Buffer.from('1'), 0)
    await file.write(Buffer.from('2'), 1)
    files.failOn({ operation: 'sync' }, 'EIO')
    await expect(file.sync()).rejects.toThrow('EIO')
    await file.sync()
    const states = [...files.crashStates({ tornVariants: [] })]
    expect(states.map((state) => state.readFile('/a').toString())).toEqual(['', '1', '12'])
  })

  test('leaves a hole before bytes that are written and synced after it', async () => {
    const { files, file } = await withFile('one')
    await file.write(Buffer.from('two'), 3)
    files.failOn({ operation: 'sync' }, 'EIO')
    await expect(file.sync()).rejects.toThrow('EIO')
    await file.write(Buffer.from('six'), 6)
    await file.sync()
    expect(durableText(files)).toBe('one\0\0\0six')
    expect(files.afterCrash({ keep: 'all' }).readFile('/a').toString()).toBe('onetwosix')
  })

  test('is healed by writing the bytes again and syncing them', async () => {
    const { files, file } = await withFile('one')
    await file.write(Buffer.from('two'), 3)
    files.failOn({ operation: 'sync' }, 'EIO')
    await expect(file.sync()).rejects.toThrow('EIO')
    await file.write(Buffer.from('two'), 3)
    await file.sync()
    expect([...files.crashStates()].map((state) => state.readFile('/a').toString())).toEqual(['onetwo'])
  })

  test('loses the bytes for good, even if the process is killed and another one syncs', async () => {
    const { files, file } = await withFile('one')
    await file.write(Buffer.from('two'), 3)
    files.failOn({ operation: 'sync' }, 'EIO')
    await expect(file.sync()).rejects.toThrow('EIO')
    const killed = files.afterKill()
    expect(killed.readFile('/a').toString()).toBe('onetwo')
    await (await killed.open('/a', 'write')).sync()
    expect(durableText(killed)).toBe('one')
  })

  test('keeps pending bytes on request', async () => {
    const { files, file } = await withFile('one')
    await file.write(Buffer.from('two'), 3)
    files.failOn({ operation: 'sync' }, 'EIO', { dropsPending: false })
    await expect(file.sync()).rejects.toThrow('EIO')
    expect(durableText(files)).toBe('one')
    await file.sync()
    expect(durableText(files)).toBe('onetwo')
  })

  test('of a directory keeps pending changes, unless asked to lose them', async () => {
    for (const dropsPending of [undefined, true]) {
      const { files } = await withFile()
      await files.rename('/a', '/b')
      files.failOn({ operation: 'syncDirectory' }, 'EIO', dropsPending === undefined ? {} : { dropsPending })
      await expect(files.syncDirectory('/')).rejects.toMatchObject({ code: 'EIO', syscall: 'fsync' })
      expect(files.afterCrash({ keep: 'none' }).names('/')).toEqual(['a'])
      await files.syncDirectory('/')
      expect(files.names('/')).toEqual(['b'])
      expect(files.afterCrash({ keep: 'none' }).names('/')).toEqual([dropsPending === true ? 'a' : 'b'])
    }
  })
})

describe('a full disk', () => {
  test('accepts what fits and then fails with ENOSPC, until there is room', async () => {
    const files = new SimulatedFileSystem({ capacityBytes: 10 })
    files.writeFile('/b', 'four')
    const file = await files.open('/a', 'create')
    expect(await file.write(Buffer.from('abcd'), 0)).toBe(4)
    expect(await file.write(Buffer.from('efgh'), 4)).toBe(2)
    await expect(file.write(Buffer.from('gh'), 6)).rejects.toMatchObject({ code: 'ENOSPC', syscall: 'write' })
    expect(await file.write(Buffer.from('ABCDEF'), 0)).toBe(6)
    await files.unlink('/b')
    expect(await file.write(Buffer.from('gh'), 6)).toBe(2)
    expect(files.readFile('/a').toString()).toBe('ABCDEFgh')
  })

  test('accepts bytes that overwrite others', async () => {
    const files = new SimulatedFileSystem({ capacityBytes: 10 })
    const file = await files.open('/a', 'create')
    await file.write(Buffer.alloc(10, 'a'), 0)
    expect(await file.write(Buffer.alloc(5, 'b'), 0)).toBe(5)
    expect(await file.write(Buffer.alloc(5, 'c'), 8)).toBe(2)
    expect(files.readFile('/a').toString()).toBe('bbbbbaaacc')
  })

  test('counts a file without a name until it is closed', async () => {
    const files = new SimulatedFileSystem({ capacityBytes: 4 })
    files.writeFile('/b', 'four')
    const open = await files.open('/b', 'read')
    await files.unlink('/b')
    const file = await files.open('/a', 'create')
    await expect(file.write(Buffer.from('x'), 0)).rejects.toMatchObject({ code: 'ENOSPC' })
    await open.close()
    expect(await file.write(Buffer.from('x'), 0)).toBe(1)
  })

  test('stays as full after a crash, and its capacity can change', async () => {
    const files = new SimulatedFileSystem({ capacityBytes: 4 })
    files.writeFile('/a', 'four')
    for (const state of [files.afterCrash({ keep: 'all' }), files.afterKill(), ...files.crashStates()]) {
      const file = await state.open('/a', 'write')
      await expect(file.write(Buffer.from('x'), 4)).rejects.toMatchObject({ code: 'ENOSPC' })
      state.capacityBytes = 5
      expect(await file.write(Buffer.from('x'), 4)).toBe(1)
    }
  })
})

describe('a read-only file system', () => {
  test('refuses every change with EROFS and can still be read', async () => {
    const { files, file } = await withFile('abc')
    files.readOnly = true
    const readOnly = { code: 'EROFS', errno: -30 }
    await expect(file.write(Buffer.from('x'), 0)).rejects.toMatchObject(readOnly)
    await expect(file.truncate(0)).rejects.toMatchObject(readOnly)
    await expect(files.open('/a', 'write')).rejects.toMatchObject(readOnly)
    await expect(files.open('/a', 'ensure')).rejects.toMatchObject(readOnly)
    await expect(files.open('/b', 'create')).rejects.toMatchObject(readOnly)
    await expect(files.rename('/a', '/b')).rejects.toMatchObject(readOnly)
    await expect(files.unlink('/a')).rejects.toMatchObject(readOnly)
    await expect(files.makeDirectory('/d')).rejects.toMatchObject(readOnly)
    const reader = await files.open('/a', 'read')
    expect(await reader.read(Buffer.alloc(9), 0)).toBe(3)
    expect(files.names('/')).toEqual(['a'])
    expect(new SimulatedFileSystem({ readOnly: true }).afterCrash({ keep: 'all' }).readOnly).toBe(true)
  })
})
