import type * as ministore from '../src/index.ts'

/** Where the built package begins; what is measured is what users get, not the sources. */
export const libraryUrl: string = new URL('../../dist/index.js', import.meta.url).href

export const { MiniStore } = (await import(libraryUrl)) as typeof ministore
