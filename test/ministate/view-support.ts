import type { FileSystem } from '../../src/index.ts'
import { MiniStore } from '../../src/index.ts'
import { StateManager, StateView, type ViewOptions } from '../../src/ministate/index.ts'
import type { Add, SumManager, SumOptions, Sums } from './support.ts'

/** A view of the sums of a journal or of a state. */
export type SumView = StateView<Sums, Add>

/** The definition of the state whose sums are the triangular numbers if each record adds its number. */
export const adding: Pick<ViewOptions<Sums, Add>, 'initialState' | 'mutator'> = {
  initialState: () => ({ sums: [] }),
  mutator: ({ sums }, { by }) => {
    sums.push((sums.at(-1) ?? 0) + by)
  },
}

/** The sums after the records 1, 2, … `count`. */
export function sumsOf(count: number): number[] {
  return Array.from({ length: count }, (_, index) => ((index + 1) * (index + 2)) / 2)
}

export function openView(
  source: Parameters<typeof StateView.open<Sums, Add>>[0],
  options: Partial<ViewOptions<Sums, Add>> = {},
): Promise<SumView> {
  return StateView.open<Sums, Add>(source, { ...adding, ...options })
}

export function openJournal(path: string, fileSystem?: FileSystem, maxBytesPerSegment?: number): Promise<MiniStore<Add>> {
  return MiniStore.open<Add>(path, { fileSystem, maxBytesPerSegment })
}

/** Appends the records after the last one, each of which adds its number, up to `last`. */
export async function appendTo(store: MiniStore<Add> | SumManager, last: number): Promise<void> {
  if ('apply' in store) for (let by = store.sequence + 1; by <= last; by++) await store.apply({ by })
  else for (let by = store.lastSequence + 1; by <= last; by++) await store.append({ by })
}

/** Opens the manager of the state in `directory` whose record n adds n. */
export function openManager(directory: string, options: SumOptions = {}): Promise<SumManager> {
  return StateManager.open<Sums, Add>(directory, { ...adding, ...options })
}
