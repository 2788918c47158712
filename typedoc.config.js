import { readFileSync } from 'node:fs'

const { exports } = JSON.parse(readFileSync(new URL('package.json', import.meta.url), 'utf8'))

/**
 * Settings of the API reference (`npm run docs`). It covers every entry point of the package. A
 * public symbol without a docstring is an error.
 *
 * typedoc needs the API of the compiler, which TypeScript 7 does not have. In package.json, the
 * name `typescript` therefore stands for Microsoft's compatibility package of TypeScript 6. The
 * command `tsc`, which checks and builds everything, is that of `@typescript/native`, TypeScript 7.
 *
 * @type {Partial<import('typedoc').TypeDocOptions>}
 */
export default {
  name: 'ministore',
  entryPoints: Object.values(exports)
    .filter(({ types }) => types !== undefined)
    .map(({ types }) => types.replace('./dist/', 'src/').replace('.d.ts', '.ts')),
  tsconfig: 'src/tsconfig.json',
  // Links to the sources would need the address of a public repository.
  disableSources: true,
  excludeInternal: true,
  excludePrivate: true,
  requiredToBeDocumented: [
    'Module', 'Variable', 'Function', 'Class', 'Constructor', 'Interface', 'Property', 'Method', 'Accessor', 'TypeAlias',
  ],
  validation: { notExported: true, invalidLink: true, notDocumented: true },
  // Steps of the type KeptByJson, which mean nothing by themselves.
  intentionallyNotExported: ['KeptProperties', 'Unkept'],
  treatWarningsAsErrors: true,
}
