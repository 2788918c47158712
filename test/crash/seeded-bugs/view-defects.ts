import type { Defect } from './defects.ts'

/** Defects of the read models. */
export const viewDefects: readonly Defect[] = [
  {
    name: 'view: the record that a snapshot ends with is folded again',
    patches: [
      {
        file: 'ministate/state-view.ts',
        find: 'journal.entries({ from: this.#sequence + 1, follow: true, signal })',
        by: 'journal.entries({ from: Math.max(1, this.#sequence), follow: true, signal })',
      },
      {
        file: 'ministate/state-view.ts',
        find: '    if (sequence !== this.#sequence + 1) throw wrongRecord(this.#sequence + 1, `record ${sequence}`)\n',
        by: '',
      },
    ],
    finding: /^view: .*(?:the view has \d+ records|then the view was 1:100,1:100)/,
  },
  {
    name: 'view: a snapshot is written before its records are durable',
    patches: [
      {
        file: 'ministate/state-view.ts',
        find: '      await this.#source.settle()\n      return this.#state\n',
        by: '      return this.#state\n',
      },
    ],
    finding: /^view: a snapshot holds only durable records: .*but the journal ends with/,
  },
  {
    name: 'view: its lock file is not durable before its snapshots',
    patches: [
      {
        file: 'ministate/view-source.ts',
        find: '      await lock.fileSystem.syncDirectory(directory)\n',
        by: '',
      },
    ],
    finding: /^view: its snapshots are its own after a crash: .*which holds snapshots and no view\.lock/,
  },
  {
    name: 'view: a replica sweeps',
    patches: [
      {
        file: 'ministate/view-source.ts',
        find: '    for (const store of [this.own, this.#manager]) {\n',
        by: '    for (const store of [this.own, this.#manager]) {\n      await store?.sweep()\n',
      },
    ],
    finding: /^view: a replica changes nothing: .*unlink/,
  },
]
