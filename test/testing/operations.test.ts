import { Buffer } from 'node:buffer'
import { expect, test } from 'vitest'
import { type Operation, SimulatedFileSystem, SimulatedStopError } from '../../src/testing/index.ts'

/** Creates a file by a careful atomic replace, and acknowledges when it is done. */
async function replaceCarefully(files: SimulatedFileSystem): Promise<void> {
  const file = await files.open('/next', 'create')
  await file.write(Buffer.from('new'), 0)
  await file.sync()
  await file.close()
  await files.rename('/next', '/now')
  await files.syncDirectory('/')
}

test('listeners get every operation, with all its details, before it is applied', async () => {
  const files = new SimulatedFileSystem()
  const heard: Array<Partial<Operation>> = []
  const names: string[][] = []
  files.onOperation((operation) => {
    heard.push(operation)
    names.push(files.names('/'))
  })
  await replaceCarefully(files)
  expect(heard).toMatchObject([
    { index: 0, operation: 'open', path: '/next', mode: 'create', changesDisk: true },
    { index: 1, operation: 'write', path: '/next', position: 0, length: 3, changesDisk: true },
    { index: 2, operation: 'sync', path: '/next', syscall: 'fsync', changesDisk: true },
    { index: 3, operation: 'close', path: '/next', changesDisk: false },
    { index: 4, operation: 'rename', path: '/next', to: '/now', changesDisk: true },
    { index: 5, operation: 'syncDirectory', path: '/', changesDisk: true },
  ])
  expect(names).toEqual([[], ['next'], ['next'], ['next'], ['next'], ['now']])
  expect(files.operations).toBe(6)
})

test('a removed listener gets nothing, and helpers do not count as operations', async () => {
  const files = new SimulatedFileSystem()
  let heard = 0
  const stop = files.onOperation(() => {
    heard += 1
  })
  files.writeFile('/a', 'x')
  files.snapshot()
  files.afterKill()
  expect(heard).toBe(0)
  await files.stat('/a')
  stop()
  await files.stat('/a')
  expect(heard).toBe(1)
  expect(files.operations).toBe(2)
})

test('a failing operation reaches listeners and counts', async () => {
  const files = new SimulatedFileSystem()
  const heard: string[] = []
  files.onOperation(({ operation }) => heard.push(operation))
  await expect(files.open('/a', 'read')).rejects.toThrow('ENOENT')
  files.failOn({ operation: 'list' }, 'EIO')
  await expect(files.list('/')).rejects.toThrow('EIO')
  expect(heard).toEqual(['open', 'list'])
  expect(files.operations).toBe(2)
})

test('a crash before every operation of a careful replace leaves the old file or the new one', async () => {
  const files = new SimulatedFileSystem()
  files.writeFile('/now', 'old')
  const contents: string[] = []
  files.onOperation(() => {
    for (const state of files.crashStates()) contents.push(state.readFile('/now').toString())
  })
  await replaceCarefully(files)
  expect(contents.length).toBeGreaterThan(20)
  expect(new Set(contents)).toEqual(new Set(['old', 'new']))
  expect(files.afterCrash({ keep: 'none' }).readFile('/now').toString()).toBe('new')
})

test('a process stopped at any operation has done the earlier ones and nothing after', async () => {
  for (let index = 0; index <= 6; index += 1) {
    const files = new SimulatedFileSystem()
    const done: string[] = []
    files.onOperation(({ operation }) => done.push(operation))
    files.stopAt(index)
    const work = replaceCarefully(files)
    if (index < 6) await expect(work).rejects.toThrow(SimulatedStopError)
    else await work
    expect(files.isStopped).toBe(index < 6)
    expect(files.operations).toBe(index)
    expect(done).toEqual(['open', 'write', 'sync', 'close', 'rename', 'syncDirectory'].slice(0, index))
    if (index === 6) continue
    const before = files.snapshot()
    await expect(files.makeDirectory('/d')).rejects.toThrow(SimulatedStopError)
    await expect(files.syncDirectory('/')).rejects.toThrow(SimulatedStopError)
    expect(files.snapshot()).toEqual(before)
  }
})

test('a stop leaves pending changes as they are', async () => {
  const files = new SimulatedFileSystem()
  files.writeFile('/a', 'one')
  const file = await files.open('/a', 'write')
  await file.write(Buffer.from('two'), 3)
  files.stopAt(files.operations)
  await expect(file.sync()).rejects.toThrow(SimulatedStopError)
  await expect(file.write(Buffer.from('six'), 6)).rejects.toThrow(SimulatedStopError)
  const killed = files.afterKill()
  expect(killed.readFile('/a').toString()).toBe('onetwo')
  expect(killed.afterCrash({ keep: 'none' }).readFile('/a').toString()).toBe('one')
  await (await killed.open('/a', 'write')).sync()
  expect(killed.afterCrash({ keep: 'none' }).readFile('/a').toString()).toBe('onetwo')
})

test('a listener can stop the process before the operation it is called for', async () => {
  const files = new SimulatedFileSystem()
  files.onOperation(({ operation, index }) => {
    if (operation === 'rename') files.stopAt(index)
  })
  await expect(replaceCarefully(files)).rejects.toThrow(SimulatedStopError)
  expect(files.names('/')).toEqual(['next'])
})

test('stopAt refuses an invalid index', () => {
  expect(() => new SimulatedFileSystem().stopAt(-1)).toThrow('`index`')
})
