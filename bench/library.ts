import type * as ministore from '../src/index.ts'
import type * as minisnap from '../src/minisnap/index.ts'
import type * as ministate from '../src/ministate/index.ts'

/** URL of the built package's entry. The bench measures what users get, not the sources. */
export const libraryUrl: string = new URL('../../dist/index.js', import.meta.url).href

export const { groupCommit, MiniStore, nodeFileSystem, replicate } = (await import(libraryUrl)) as typeof ministore
export const { SnapStore } = (await import(brickUrl('minisnap'))) as typeof minisnap
export const { StateManager, StateView } = (await import(brickUrl('ministate'))) as typeof ministate

/** URL of the entry of a brick, such as `minisnap`, in the built package. */
export function brickUrl(name: string): string {
  return new URL(`${name}/index.js`, libraryUrl).href
}
