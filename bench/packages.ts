import { readFileSync } from 'node:fs'
import { join } from 'node:path'

import { benchFolder } from './folders.ts'

/**
 * A package is not installed or cannot be loaded. The bench continues without it and always reports
 * the reason.
 */
export class NotInstalledError extends Error {
  override readonly name = 'NotInstalledError'
}

/** A package of bench/package.json: its exports and its version. */
export interface LoadedPackage<Exports> {
  readonly exports: Exports
  readonly version: string
}

/**
 * Imports a package of bench/package.json, or one part of it, such as `lowdb/node`. The caller
 * declares the exports that it uses, because the types of the packages are not available when the
 * bench is type-checked.
 *
 * @throws {NotInstalledError} if the package is not installed or cannot be loaded here. The message
 * gives the reason.
 */
export async function loadPackage<Exports>(name: string, part = name): Promise<LoadedPackage<Exports>> {
  const version = versionOf(name)
  try {
    return { exports: (await import(part)) as Exports, version }
  } catch (error) {
    throw new NotInstalledError(`not installed: ${firstLine(error)}`, { cause: error })
  }
}

/**
 * Returns the path of a file inside a package of bench/package.json, even if the package does not
 * export the file.
 *
 * @throws {NotInstalledError} if the package is not installed.
 */
export function packageFile(name: string, path: string): string {
  versionOf(name)
  return join(benchFolder, 'node_modules', name, path)
}

/** The first line of an error's message, with directories of this machine replaced by `…/`. */
export function firstLine(error: unknown): string {
  const [line = ''] = (error instanceof Error ? error.message : String(error)).split('\n')
  return line.replaceAll(/(?:file:\/\/)?(?<![\w.])\/\S+\//g, '…/')
}

function versionOf(name: string): string {
  try {
    const manifest = readFileSync(join(benchFolder, 'node_modules', name, 'package.json'), 'utf8')
    return (JSON.parse(manifest) as { readonly version: string }).version
  } catch (error) {
    throw new NotInstalledError(`not installed: no ${name} in bench/node_modules`, { cause: error })
  }
}
