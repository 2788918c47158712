import type { Defect } from './defects.ts'

/** Defects of replication. */
export const replicaDefects: readonly Defect[] = [
  {
    name: 'replica: the source is truncated before the target has the records',
    patches: [
      {
        file: 'journal/replicate.ts',
        find: '      last = await write(to, entries, last)\n',
        by:
          '      if (truncate) await from.rotate?.()\n' +
          '      if (truncate) await from.truncateBefore(last + entries.length + 1)\n' +
          '      last = await write(to, entries, last)\n',
      },
    ],
    finding: /^replica: store and forward.*The source no longer has record \d+/,
  },
  {
    name: 'replica: a new target keeps its own identity',
    patches: [
      {
        file: 'journal/replicate.ts',
        find: ' await to.adopt?.({ id, firstSequence: last + 1 })\n',
        by: ' await Promise.resolve()\n',
      },
    ],
    finding: /^replica: .*(?:the target has the id|to be a replica of the source)/,
  },
  {
    name: 'replica: a copy ends before its records are written',
    patches: [
      {
        file: 'journal/replicate.ts',
        find: 'return (await to.appendAll(records, { expectedSequence: last })).last\n',
        by: '{\n    to.appendAll(records, { expectedSequence: last }).catch(() => {})\n    return last + records.length\n  }\n',
      },
    ],
    finding: /^replica: .*record \d+ is not there/,
  },
]
