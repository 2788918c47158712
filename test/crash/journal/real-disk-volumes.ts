import { execFile } from 'node:child_process'
import { mkdir, open, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'

import { onTestFinished } from 'vitest'

import { temporaryDirectory } from '../../support/temporary-directory.ts'

const run = promisify(execFile)

/** A separate file system, mounted in a temporary directory. */
export class Volume {
  /** Where the volume is mounted. */
  readonly directory: string
  readonly #mount: readonly string[]
  #isMounted = false

  private constructor(directory: string, mount: readonly string[]) {
    this.directory = directory
    this.#mount = mount
  }

  /**
   * Mounts a volume of this size in memory. It is unmounted and removed when the test has finished,
   * however it ends.
   */
  static async inMemory(mebibytes: number): Promise<Volume> {
    return Volume.#mounted(await temporaryDirectory(), ['-t', 'tmpfs', '-o', `size=${mebibytes}m`, 'tmpfs'])
  }

  /**
   * Mounts a volume of this size in a file, through a loop device. It is unmounted and removed when
   * the test has finished, however it ends.
   */
  static async inImage(type: 'ext4' | 'xfs', mebibytes: number): Promise<Volume> {
    const directory = await temporaryDirectory()
    const image = join(directory, 'image')
    const file = await open(image, 'wx')
    await file.truncate(mebibytes * 2 ** 20)
    await file.close()
    await run(`mkfs.${type}`, ['-q', image])
    return Volume.#mounted(directory, ['-t', type, '-o', 'loop', image])
  }

  static async #mounted(directory: string, mount: readonly string[]): Promise<Volume> {
    const volume = new Volume(join(directory, 'mounted'), mount)
    await mkdir(volume.directory)
    // Runs before the temporary directory is removed, since hooks run in reverse order.
    onTestFinished(() => volume.unmount())
    await volume.mount()
    return volume
  }

  async mount(): Promise<void> {
    await run('mount', [...this.#mount, this.directory])
    this.#isMounted = true
  }

  async unmount(): Promise<void> {
    if (!this.#isMounted) return
    await run('umount', [this.directory])
    this.#isMounted = false
  }

  /**
   * Simulates a power failure with `FS_IOC_SHUTDOWN`, without flushing the log. From then on
   * neither data nor metadata reaches the disk. After mounting again, the volume holds what had
   * reached the disk before.
   *
   * ext4 and XFS share the ioctl: `XFS_IOC_GOINGDOWN`, `_IOR('X', 125, uint32_t)`, with
   * `XFS_FSOP_GOING_FLAGS_NOLOGFLUSH` (2), as in the kernel's fs/xfs/xfs_fs.h and fs/ext4/ext4.h.
   */
  async losePower(): Promise<void> {
    // Must never shut down the file system that holds this directory itself.
    const [inner, outer] = await Promise.all([stat(this.directory), stat(dirname(this.directory))])
    if (inner.dev === outer.dev) throw new Error(`Nothing is mounted at ${this.directory}`)
    await run('perl', [
      '-e',
      'open(my $d, "<", $ARGV[0]) or die $!; my $how = pack("L", 2); ioctl($d, 0x8004587d, $how) or die $!',
      this.directory,
    ])
  }
}

/** Returns why such a volume is not available here, or undefined if it is. Installs nothing. */
export async function whyNoVolume(type: 'tmpfs' | 'ext4' | 'xfs'): Promise<string | undefined> {
  if (process.platform !== 'linux') return `it needs Linux, this is ${process.platform}`
  if (process.getuid?.() !== 0) return 'it needs root, to mount'
  for (const program of type === 'tmpfs' ? ['mount'] : ['mount', `mkfs.${type}`, 'perl']) {
    try {
      await run('sh', ['-c', 'command -v "$1"', 'sh', program])
    } catch {
      // A missing program is the only way in which this fails.
      return `there is no ${program}`
    }
  }
  return whyNoMount(type)
}

/**
 * Tries to mount, since containers may forbid it to root, and kernels may lack loop devices or the
 * file system.
 */
async function whyNoMount(type: 'tmpfs' | 'ext4' | 'xfs'): Promise<string | undefined> {
  const script = {
    tmpfs: 'mount -t tmpfs -o size=1m tmpfs "$d/m"',
    ext4: 'truncate -s 16M "$d/i" && mkfs.ext4 -q "$d/i" && mount -o loop "$d/i" "$d/m"',
    xfs: 'truncate -s 320M "$d/i" && mkfs.xfs -q "$d/i" && mount -o loop "$d/i" "$d/m"',
  }[type]
  try {
    await run('sh', [
      '-c',
      `d=$(mktemp -d) && mkdir "$d/m" || exit
      (${script}); status=$?
      [ $status = 0 ] && umount "$d/m"
      rm -rf "$d"
      exit $status`,
    ])
  } catch (error) {
    // The error's first line repeats the command; the last one has the reason.
    const said = error instanceof Error ? error.message.trim().split('\n').at(-1) : String(error)
    return `mounting ${type} is not possible: ${said}`
  }
  return undefined
}
