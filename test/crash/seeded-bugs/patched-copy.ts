import { cp, readFile, symlink, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { join } from 'node:path'

import type * as Checks from './checks.ts'

/** One change to a source file of the library. */
export interface Patch {
  /** The path of the file below `src`. */
  readonly file: string
  /**
   * The text to replace. It must occur exactly once, since otherwise the defect could vanish
   * unnoticed.
   */
  readonly find: string
  readonly by: string
}

const checkout = fileURLToPath(new URL('../../../', import.meta.url))

/**
 * Loads the checks on a patched copy of the library in an empty directory. The copy includes
 * harness and model. They import the library by relative paths, so all of them use the patched one.
 */
export async function loadPatched(directory: string, patches: readonly Patch[]): Promise<typeof Checks> {
  await cp(join(checkout, 'src'), join(directory, 'src'), { recursive: true })
  for (const name of ['package.json', 'tsconfig.json']) await cp(join(checkout, name), join(directory, name))
  await symlink(join(checkout, 'node_modules'), join(directory, 'node_modules'))
  await cp(join(checkout, 'test/support'), join(directory, 'test/support'), { recursive: true })
  const target = join(directory, 'test/crash')
  const isWanted = (path: string): boolean => !path.endsWith('.test.ts')
  await cp(join(checkout, 'test/crash'), target, { recursive: true, filter: isWanted })
  for (const { file, find, by } of patches) {
    const path = join(directory, 'src', file)
    await writeFile(path, replaceOnce(await readFile(path, 'utf8'), { find, by }))
  }
  return (await import(/* @vite-ignore */ join(target, 'seeded-bugs/checks.ts'))) as typeof Checks
}

/** @throws {Error} unless `find` occurs exactly once in the text. */
export function replaceOnce(text: string, { find, by }: Omit<Patch, 'file'>): string {
  const [before, after, ...more] = text.split(find)
  if (before === undefined || after === undefined || more.length > 0) {
    throw new Error(`Expected exactly one occurrence, got ${text.split(find).length - 1}, of:\n${find}`)
  }
  return before + by + after
}
