import { execFileSync } from 'node:child_process'
import type * as NodeFs from 'node:fs'
import { rmSync } from 'node:fs'
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { expect, test, vi } from 'vitest'

import { nodeFileSystem } from '../../src/index.ts'
import { descriptorsIn } from '../support/observed-file-system.ts'
import { temporaryDirectory } from '../support/temporary-directory.ts'

/** What happens between a look at a path and the call that follows it. */
const race: { beforeOpen: (() => void) | undefined } = vi.hoisted(() => ({ beforeOpen: undefined }))

vi.mock('node:fs', async (load) => {
  const actual = await load<typeof NodeFs>()
  const open = (...words: Parameters<typeof actual.open>): void => {
    race.beforeOpen?.()
    race.beforeOpen = undefined
    actual.open(...words)
  }
  return { ...actual, open }
})

test('create refuses every name that is taken, a link that leads nowhere too, and leaves it as it is', async () => {
  const directory = await temporaryDirectory()
  const [file, link] = [join(directory, 'file'), join(directory, 'link')]
  await writeFile(file, 'kept')
  await symlink(join(directory, 'nowhere'), link)
  await mkdir(join(directory, 'directory'))
  for (const path of [file, link, join(directory, 'directory')]) {
    await expect(nodeFileSystem.open(path, 'create'), path).rejects.toMatchObject({ code: 'EEXIST' })
  }
  expect(await readFile(file, 'utf8')).toBe('kept')
  await expect(readFile(join(directory, 'nowhere'))).rejects.toMatchObject({ code: 'ENOENT' })
})

test.skipIf(process.platform === 'win32')(
  'a FIFO that takes the place of a file between the look and the open is refused without waiting',
  async () => {
    const directory = await temporaryDirectory()
    const path = join(directory, 'file')
    for (const mode of ['read', 'write', 'ensure'] as const) {
      await writeFile(path, '')
      race.beforeOpen = () => {
        rmSync(path)
        execFileSync('mkfifo', [path])
      }
      await expect(nodeFileSystem.open(path, mode), mode).rejects.toMatchObject({
        code: 'ERR_MINISTORE_IO',
        message: `${path} is a FIFO, expected a regular file`,
      })
      rmSync(path)
    }
    expect(descriptorsIn(directory)).toBe(0)
  },
)
