import { readFileSync } from 'node:fs'
import { join } from 'node:path'

import { benchFolder } from './folders.ts'

/** Why something that would be measured is not: it is told, never passed over. */
export class NotInstalledError extends Error {
  override readonly name = 'NotInstalledError'
}

/** A package of bench/package.json: what it exports, and its version. */
export interface LoadedPackage<Exports> {
  readonly exports: Exports
  readonly version: string
}

/**
 * Imports a package of bench/package.json, or the named part of it, such as `lowdb/node`. The caller says
 * what it exports, as far as it is used: the types of the packages are not there when the bench is
 * type-checked.
 *
 * @throws {NotInstalledError} when it is not installed, or cannot be loaded here, with the reason.
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
 * Path of a file inside a package of bench/package.json, whether the package exports it or not.
 *
 * @throws {NotInstalledError} when the package is not installed.
 */
export function packageFile(name: string, path: string): string {
  versionOf(name)
  return join(benchFolder, 'node_modules', name, path)
}

/** The first line of an error's message, without paths of this machine. */
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
