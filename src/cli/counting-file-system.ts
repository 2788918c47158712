import type { File, FileSystem } from '../fs/file-system.ts'
import { nodeFileSystem } from '../fs/node.ts'

/** The file system of this machine, which tells of every read how many bytes it gave. For progress bars. */
export function countingFileSystem(onRead: (bytes: number) => void): FileSystem {
  return {
    ...nodeFileSystem,
    open: async (...how) => new CountedFile(await nodeFileSystem.open(...how), onRead),
  }
}

class CountedFile implements File {
  readonly #file: File
  readonly #onRead: (bytes: number) => void

  constructor(file: File, onRead: (bytes: number) => void) {
    this.#file = file
    this.#onRead = onRead
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    const read = await this.#file.read(buffer, position)
    this.#onRead(read)
    return read
  }

  write(bytes: Uint8Array, position: number): number | Promise<number> {
    return this.#file.write(bytes, position)
  }

  truncate(length: number): Promise<void> {
    return this.#file.truncate(length)
  }

  sync(): Promise<void> {
    return this.#file.sync()
  }

  dataSync(): Promise<void> {
    return this.#file.dataSync()
  }

  stat(): ReturnType<File['stat']> {
    return this.#file.stat()
  }

  close(): Promise<void> {
    return this.#file.close()
  }
}
