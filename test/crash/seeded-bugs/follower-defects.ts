import type { Defect } from './defects.ts'

/** Defects of the memory from which a writer hands records to followers in its thread. */
export const followerDefects: readonly Defect[] = [
  {
    name: 'followers: a record is handed over before its fsync',
    patches: [
      {
        file: 'ministore/writer.ts',
        find: '    try {\n      await file.dataSync()\n',
        by: `    this.#active = { segment, file, acknowledged: extendCheckpoint(acknowledged, lines, records) }
    this.recent.add(segment, lines, acknowledged.bytes)
    this.#change.wakeSoon()
    try {
      await file.dataSync()
`,
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
