import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'

import { describe, expect, onTestFinished, test } from 'vitest'

import {
  claimedOutput,
  codeBlocks,
  fileNameOf,
  outputMismatch,
  scriptOfCommand,
  shellCommands,
  Workspace,
  type CodeBlock,
} from './markdown-code.ts'

const SAMPLE = `# Sample

Not code: \`const a = 1\` and \`\`\`inline\`\`\`.

\`\`\`ts
const a = 1
# not a heading

console.log(a) // → 1
\`\`\`

## Second \`part\` ##

\`\`\`sh run
ls
\`\`\`

- in a list:

  ~~~js
  if (true) {
    console.log(2)
  }
  ~~~

\`\`\`\`text
\`\`\`ts
never(run)
\`\`\`
\`\`\`\`

\`\`\`
no language
\`\`\`
`

describe('codeBlocks', () => {
  test('finds every block with its heading, line, language and flags', () => {
    expect(codeBlocks(SAMPLE)).toEqual([
      {
        heading: 'Sample',
        line: 5,
        language: 'ts',
        flags: [],
        code: 'const a = 1\n# not a heading\n\nconsole.log(a) // → 1\n',
      },
      { heading: 'Second `part`', line: 14, language: 'sh', flags: ['run'], code: 'ls\n' },
      {
        heading: 'Second `part`',
        line: 20,
        language: 'js',
        flags: [],
        code: 'if (true) {\n  console.log(2)\n}\n',
      },
      { heading: 'Second `part`', line: 26, language: 'text', flags: [], code: '```ts\nnever(run)\n```\n' },
      { heading: 'Second `part`', line: 32, language: '', flags: [], code: 'no language\n' },
    ])
  })

  test('reads a text with carriage returns like one without', () => {
    expect(codeBlocks(SAMPLE.replaceAll('\n', '\r\n'))).toEqual(codeBlocks(SAMPLE))
  })

  test('finds nothing in a text without code', () => {
    expect(codeBlocks('# Title\n\nWords.\n')).toEqual([])
  })

  test('refuses a fence that is never closed, since it would swallow the rest', () => {
    const text = 'a\n\n```ts\ncode\n~~~\n``\n'
    expect(() => codeBlocks(text)).toThrow('The code fence of line 3 is never closed')
  })
})

describe('fileNameOf', () => {
  test('is the name in the fence of a JavaScript block', () => {
    expect(fileNameOf({ ...blockOf('js', ''), flags: ['orders.test.js'] })).toBe('orders.test.js')
    expect(fileNameOf(blockOf('js', ''))).toBeUndefined()
    expect(fileNameOf({ ...blockOf('sh', ''), flags: ['run'] })).toBeUndefined()
    expect(fileNameOf({ ...blockOf('ts', ''), flags: ['orders.ts'] })).toBeUndefined()
  })
})

describe('claimedOutput', () => {
  test('takes one line from every arrow comment, in code and in shell commands', () => {
    const code = `console.log(a) // → 1\nfor (;;) console.log(b)\n// → { b: 2 }\n// no claim\n`
    expect(claimedOutput(code)).toEqual({ lines: ['1', '{ b: 2 }'], isComplete: true })
    expect(claimedOutput('ls # → a\n# → b\n')).toEqual({ lines: ['a', 'b'], isComplete: false })
  })

  test('is incomplete if a console.log has no comment, and empty without comments', () => {
    const code = 'console.log(a)\nconsole.log(b) // → 1\n'
    expect(claimedOutput(code)).toEqual({ lines: ['1'], isComplete: false })
    expect(claimedOutput('console.log(a)\n')).toEqual({ lines: [], isComplete: false })
  })
})

describe('outputMismatch', () => {
  test('finds nothing wrong if a complete claim is the whole output', () => {
    expect(outputMismatch({ lines: ['1', '2'], isComplete: true }, '1\n  2\n')).toBeUndefined()
  })

  test.each([
    ['a line is wrong', '1\n3\n', 'never printed in its place: → 2'],
    ['a line is missing', '1\n', 'never printed in its place: → 2'],
    ['the order differs', '2\n1\n', 'never printed in its place: → 1'],
    ['a line comes between', '1\nx\n2\n', 'never printed in its place: → 2'],
    ['a line comes after', '1\n2\n3\n', 'more was printed than claimed'],
    ['nothing is printed', '', 'never printed in its place: → 1'],
  ])('a complete claim fails when %s', (_name, stdout, reason) => {
    expect(outputMismatch({ lines: ['1', '2'], isComplete: true }, stdout)).toContain(reason)
  })

  test('an incomplete claim must occur in order, with anything in between', () => {
    const claim = { lines: ['1', '2'], isComplete: false }
    expect(outputMismatch(claim, 'x\n1\ny\n2\nz\n')).toBeUndefined()
    expect(outputMismatch(claim, '2\n1\n')).toContain('never printed in its place: → 2')
  })

  test('an ellipsis stands for any text, and nothing else does', () => {
    for (const [line, claim, isRight] of [
      ['seq=1 id=ab12', 'seq=1 id=…', true],
      ['seq=2 id=ab12', 'seq=1 id=…', false],
      ['id=ab12 end', 'id=… end', true],
      ['id=ab12 end!', 'id=… end', false],
      ['id=', 'id=…x', false],
      ['seq=1', '…', true],
    ] as const) {
      expect(outputMismatch({ lines: [claim], isComplete: true }, line) === undefined, `${line} ${claim}`).toBe(isRight)
    }
  })

  test('without a claim anything may be printed', () => {
    expect(outputMismatch({ lines: [], isComplete: false }, 'x\n')).toBeUndefined()
  })
})

describe('shellCommands', () => {
  test('drops comments, empty lines and prompts', () => {
    expect(shellCommands('# first\n$ npm ci\n\n  npm test\n')).toEqual(['npm ci', 'npm test'])
  })
})

describe('scriptOfCommand', () => {
  test.each([
    ['npm ci && npm test', 'test'],
    ['npm install && npm run demo', 'demo'],
    ['npm ci --no-audit --no-fund && npm run --silent test:unit', 'test:unit'],
    ['npm ci && cd bench && npm start', 'start'],
    ['npm test', undefined],
    ['npm ci', undefined],
    ['yarn && npm test', undefined],
    ['npm ci && node demo.js', undefined],
    ['npm install left-pad && npm test', undefined],
  ])('of `%s` is %s', (command, script) => {
    expect(scriptOfCommand(command)).toBe(script)
  })
})

describe('Workspace', () => {
  test('runs TypeScript without its types, and `await using` even where node does not support it', async () => {
    const workspace = await createWorkspace()
    const code = `
      interface Point { readonly x: number }
      const point: Point = { x: 1 }
      {
        await using resource = { [Symbol.asyncDispose]: async () => console.log('freed') }
        console.log(point, typeof resource)
      }
    `
    expect(await workspace.run(blockOf('ts', code))).toBe('{ x: 1 } object\nfreed\n')
  })

  test('runs JavaScript unchanged', async () => {
    const workspace = await createWorkspace()
    expect(await workspace.run(blockOf('js', `console.log(await Promise.resolve('here'))`))).toBe('here\n')
  })

  test('resolves installed packages, their types included', async () => {
    const workspace = await createWorkspace()
    const code = `
      import { z } from 'zod'
      const name: string = z.object({ name: z.string() }).parse({ name: 'Ada' }).name
      console.log(name)
    `
    expect(await workspace.run(blockOf('ts', code))).toBe('Ada\n')
  })

  test('starts code in an empty directory, where a shell sees the files of earlier code', async () => {
    const workspace = await createWorkspace()
    expect(readdirSync(workspace.directory)).toEqual([])
    const code = `
      import { readdirSync, writeFileSync } from 'node:fs'
      console.log(readdirSync('.'))
      writeFileSync('left.txt', 'behind')
    `
    expect(await workspace.run(blockOf('js', code))).toBe('[]\n')
    expect(await workspace.run(blockOf('sh', 'ls\ncat left.txt'))).toBe('left.txt\nbehind')
  })

  test('only writes a block that is a file, where later code finds it', async () => {
    const workspace = await createWorkspace()
    const file = { ...blockOf('js', 'export const answer = 42; console.log("imported")\n'), flags: ['answer.mjs'] }
    expect(await workspace.run(file)).toBe('')
    expect(readdirSync(workspace.directory)).toEqual(['answer.mjs'])
    const code = `
      import { resolve } from 'node:path'
      console.log((await import(resolve('answer.mjs'))).answer)
    `
    expect(await workspace.run(blockOf('js', code))).toBe('imported\n42\n')
  })

  test('makes the commands of the package available to a shell', async () => {
    const workspace = await createWorkspace()
    expect(await workspace.run(blockOf('sh', 'compiler --version'))).toMatch(/^Version \d/)
  })

  test.each([
    ['code that throws', 'js', `throw new Error('the reason')`, 'the reason'],
    ['code that exits with a code other than 0', 'js', 'process.exit(3)', 'Command failed'],
    ['an unhandled rejection', 'js', `Promise.reject(new Error('lost'))`, 'lost'],
    ['a package that is not installed', 'js', `import 'no-such-package'`, 'no-such-package'],
    ['a shell command that fails before the last one', 'sh', 'false\ntrue', 'Command failed'],
    ['an unset shell variable', 'sh', 'echo "$NO_SUCH_VARIABLE"', 'unbound variable'],
  ])('rejects %s', async (_name, language, code, reason) => {
    const workspace = await createWorkspace()
    await expect(workspace.run(blockOf(language, code))).rejects.toThrow(reason)
  })

  test('rejects a type error, naming its line in the Markdown text, and runs nothing', async () => {
    const workspace = await createWorkspace()
    const code = `import { writeFileSync } from 'node:fs'\nwriteFileSync('ran', '')\nconst text: string = 1\n`
    await expect(workspace.run(blockOf('ts', code))).rejects.toThrow(/README\.mts\(13,7\): error TS2322/)
    expect(existsSync(join(workspace.directory, 'ran'))).toBe(false)
  })

  test('stops code that does not end', async () => {
    const workspace = await createWorkspace({ timeoutMs: 300 })
    const endless = blockOf('js', 'setInterval(() => {}, 1000)')
    await expect(workspace.run(endless)).rejects.toThrow('stopped after 300 ms')
  })

  test('leaves nothing behind once it is removed', async () => {
    const workspace = await createWorkspace()
    await workspace.run(blockOf('js', ''))
    await workspace.remove()
    expect(existsSync(workspace.directory)).toBe(false)
    expect(existsSync(join(workspace.directory, '..'))).toBe(false)
  })
})

function blockOf(language: string, code: string): CodeBlock {
  return { heading: 'Sample', line: 10, language, flags: [], code }
}

/** A workspace with zod installed and the compiler as a command, removed after the test. */
async function createWorkspace({ timeoutMs = 20_000 } = {}): Promise<Workspace> {
  const modules = join(import.meta.dirname, '../../node_modules')
  const compiler = join(modules, '@typescript/native/bin/tsc')
  const workspace = await Workspace.create({
    packages: { zod: join(modules, 'zod'), '@types/node': join(modules, '@types/node') },
    commands: { compiler },
    compiler,
    timeoutMs,
  })
  onTestFinished(() => workspace.remove())
  return workspace
}
