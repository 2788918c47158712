import { isObject, shown } from '../options.ts'
import type { FileSystem } from './file-system.ts'
import { nodeFileSystem } from './node-file-system.ts'

/** Where files live; for tests, see `@mini-ts/ministore/testing`. */
export interface FileSystemOption {
  /** @default the file system of this machine */
  readonly fileSystem?: FileSystem | undefined
}

/** @throws {TypeError} unless it is a file system or undefined. */
export function fileSystemOption(value: unknown): FileSystem {
  if (value === undefined) return nodeFileSystem
  if (!isObject(value) || typeof Reflect.get(value, 'syncDirectory') !== 'function') {
    throw new TypeError(`Expected \`fileSystem\` to be a FileSystem, got ${shown(value)}`)
  }
  return value as FileSystem
}
