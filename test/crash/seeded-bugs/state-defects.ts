import type { Defect } from './defects.ts'

/** Defects of the state manager. */
export const stateDefects: readonly Defect[] = [
  {
    name: 'state: the mutation shows before it is durable',
    patches: [
      {
        file: 'ministate/state-manager.ts',
        find: '    const sequence = await this.#soundness.guard(',
        by: `    this.#mutate(record)
    const sequence = await this.#soundness.guard(`,
      },
      {
        file: 'ministate/state-manager.ts',
        find: '    this.#mutate(record)\n    await this.#snapshots.makeIfDue(this.#now)\n    return sequence\n',
        by: '    return sequence\n',
      },
    ],
    finding: /^state: what is not durable does not show: .*acknowledged was/,
  },
  {
    name: 'state: compaction drops before the snapshot is made',
    patches: [
      {
        file: 'ministate/snapshots.ts',
        find: '  const { oldest, kept, damaged } = await snapshots.assure(at)\n',
        by: '',
      },
      {
        file: 'ministate/snapshots.ts',
        find: '    await journal.truncateBefore(oldest.sequence + 1)\n',
        by: `    await journal.truncateBefore(at.sequence + 1)
    const { kept, damaged } = await snapshots.assure(at)
`,
      },
    ],
    finding: /^state: compactions that keep 1: .*are missing/,
  },
  {
    name: 'state: compaction drops what only the newest snapshot covers',
    patches: [
      {
        file: 'ministate/snapshots.ts',
        find: 'journal.truncateBefore(oldest.sequence + 1)',
        by: 'journal.truncateBefore(at.sequence + 1)',
      },
      { file: 'ministate/snapshots.ts', find: 'const { oldest, kept, damaged }', by: 'const { kept, damaged }' },
    ],
    finding: /^state: every kept snapshot can be fallen back to: .*snapshot-4\.json is damaged/,
  },
  {
    name: 'state: compaction trusts snapshots that it has not read back',
    patches: [
      {
        file: 'ministate/snapshots.ts',
        find: 'isThere ? this.#store.keep : this.#store.keep - 1',
        by: 'isThere ? 0 : 0',
      },
    ],
    finding: /^state: an older snapshot is kept in the place of a damaged one: .*snapshot-5\.json is damaged/,
  },
  {
    name: 'state: a snapshot is of one mutation less than it says',
    patches: [
      {
        file: 'ministate/snapshots.ts',
        find: 'this.#store.create(state, sequence, { frozen: true, ',
        by: 'this.#store.create(state, Math.max(0, sequence - 1), { frozen: true, ',
      },
    ],
    finding: /^state: .*(?:has \d+ mutations, but is at|was applied as|A snapshot of)/,
  },
  {
    name: 'state: the mutation that a snapshot ends with is replayed',
    patches: [
      { file: 'ministate/recovery.ts', find: 'from: sequence + 1,', by: 'from: Math.max(1, sequence),' },
      {
        file: 'ministate/recovery.ts',
        find: "    if (entry.sequence !== sequence + 1) throw wrongRecord(sequence + 1, `mutation ${entry.sequence}`)\n",
        by: '',
      },
    ],
    finding: /^state: .*(?:has \d+ mutations, but is at|The state is)/,
  },
  {
    name: 'state: the first mutation after a snapshot is left out',
    patches: [
      { file: 'ministate/recovery.ts', find: 'from: sequence + 1,', by: 'from: Math.min(sequence + 2, to),' },
      {
        file: 'ministate/recovery.ts',
        find: "    if (entry.sequence !== sequence + 1) throw wrongRecord(sequence + 1, `mutation ${entry.sequence}`)\n",
        by: '',
      },
    ],
    finding: /^state: .*(?:has \d+ mutations, but is at|The state is)/,
  },
  {
    name: 'state: an append that was refused is taken for done',
    patches: [
      {
        file: 'ministate/snapshots.ts',
        find: 'throw hasCode(error, ...codes) ? this.poison(error) : error',
        by: "if (hasCode(error, ...codes)) throw this.poison(error)\n      return undefined as T",
      },
      {
        file: 'ministate/state-manager.ts',
        find: '    if (sequence !== next) throw this.#soundness.poison(foreignRecord(next, sequence))\n',
        by: '',
      },
    ],
    finding: /^state: what is not durable does not show: .*acknowledged was/,
  },
  {
    name: 'state: applyAll shows its mutations before they are durable',
    patches: [
      {
        file: 'ministate/state-manager.ts',
        find: '    const { first, last } = await this.#soundness.guard(() => journal.appendAll(stored, { expectedSequence }))\n',
        by: `    for (const record of records) this.#mutate(record)
    const { first, last } = await this.#soundness.guard(() => journal.appendAll(stored, { expectedSequence }))
`,
      },
      {
        file: 'ministate/state-manager.ts',
        find: '    for (const record of records) this.#mutate(record)\n    await this.#snapshots.makeIfDue(this.#now)\n    return range\n',
        by: '    return range\n',
      },
    ],
    finding: /^state: what is not durable does not show: .*acknowledged was/,
  },
  {
    name: 'state: applyAll applies what validate has refused',
    patches: [
      {
        file: 'ministate/state-manager.ts',
        find: '      await validate(state as DeepReadonly<State>, records[index] as Mutation)\n',
        by: `      try {
        await validate(state as DeepReadonly<State>, records[index] as Mutation)
      } catch {}
`,
      },
    ],
    finding: /^state: .*A refused mutation was applied/,
  },
  {
    name: 'state: applyAll validates on the state itself',
    patches: [
      {
        file: 'ministate/state-manager.ts',
        find: '      if (index === 0) state = this.#copyOf(this.#state)\n',
        by: '',
      },
    ],
    finding: /^state: .*(?:has \d+ mutations, but is at|was applied as|The state is)/,
  },
  {
    name: 'state: a compaction beside mutations drops before its snapshot is durable',
    patches: [
      {
        file: 'ministate/snapshots.ts',
        find: '  const { oldest, kept, damaged } = await snapshots.assure(at)\n',
        by: `  const assured = snapshots.assure(at)
  await inTurn(() => journal.truncateBefore(at.sequence + 1))
  const { oldest, kept, damaged } = await assured
`,
      },
    ],
    finding: /^state: a compaction beside mutations: .*are missing/,
  },
  {
    name: 'state: a compaction beside mutations drops those that came meanwhile',
    patches: [
      {
        file: 'ministate/snapshots.ts',
        find: '    await journal.truncateBefore(oldest.sequence + 1)\n',
        by: `    const { rotate, lastSequence } = journal as unknown as Journal<unknown>
    await rotate?.call(journal)
    await journal.truncateBefore(Math.max(oldest.sequence, lastSequence) + 1)
`,
      },
    ],
    finding: /^state: a compaction beside mutations: .*are missing/,
  },
  {
    name: 'state: a snapshot beside mutations is of the state as it is when it is written',
    patches: [
      {
        file: 'ministate/snapshots.ts',
        find: 'state: capture === undefined ? state : capture(state)',
        by: 'state: capture === undefined ? state : state',
      },
    ],
    finding: /^state: .* beside mutations: .*(?:has \d+ mutations, but is at|was applied as|The state is)/,
  },
]
