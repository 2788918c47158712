import type { Defect } from './defects.ts'

/** Defects of the memory from which a writer hands records to followers in its thread. */
export const followerDefects: readonly Defect[] = [
  {
    name: 'followers: a record is handed over before its fsync',
    patches: [
      {
        file: 'ministore/writer.ts',
        find: '          await this.#active.append(lines, count, { path, ...this.#limits })\n',
        by: `          this.recent.add(segment, lines, bytes)
          this.#change.wakeSoon()
          await this.#active.append(lines, count, { path, ...this.#limits })
`,
      },
      {
        file: 'ministore/active-segment.ts',
        find: '      await synced\n',
        by: '      this.#acknowledged = extended\n      await synced\n',
      },
    ],
    finding: /^followers: a record is durable .*: a follower was given "record \d+", which a crash takes away again/,
  },
  {
    name: 'followers: bytes of another segment are handed over',
    patches: [
      {
        file: 'fs/bytes.ts',
        find: 'file !== this.#file || position < this.#start',
        by: 'position < this.#start',
      },
    ],
    finding: /^followers: one that is a segment behind .*(?:is damaged at|a follower was given "record \d+" as record \d)/,
  },
]
