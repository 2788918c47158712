import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join, posix } from 'node:path'

import { codeBlocks } from './markdown-code.ts'

/**
 * Finds the Markdown pages of the repository, the files that git knows, and the links on a page.
 */

/** Directories without pages to check, in addition to those whose names begin with a dot. */
const SKIPPED = /^(?:node_modules|dist|work-.*|\..*)$/

/** Every Markdown file below a directory, as sorted relative paths with `/`. */
export function pagesIn(root: string): string[] {
  const found: string[] = []
  const visit = (folder: string): void => {
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
      const path = posix.join(folder, entry.name)
      if (entry.isDirectory() && !SKIPPED.test(entry.name)) visit(path)
      if (entry.isFile() && entry.name.endsWith('.md')) found.push(path)
    }
  }
  visit('')
  return found.toSorted()
}

/**
 * Files that git tracks or would add with `git add --all`, so that a mistake is found before the
 * commit. If git cannot tell, such as in an unpacked archive, returns the reason.
 */
export function filesOfRepository(
  root: string,
): { readonly files: readonly string[] } | { readonly unknown: string } {
  if (!existsSync(join(root, '.git'))) return { unknown: 'this is not a git checkout' }
  const git = spawnSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
  })
  // Git is missing, or the checkout belongs to another user and git refuses to read it.
  if (git.status !== 0) return { unknown: git.error?.message ?? git.stderr.trim() }
  // A file that was deleted but not yet committed is still listed.
  return { files: git.stdout.split('\0').filter((path) => path !== '' && existsSync(join(root, path))) }
}

/** A link of a page to a file of the repository, to a heading, or to both. */
export interface PageLink {
  /** Line of the link in the page, from 1. */
  readonly line: number
  /** The target as written: `../a.md#part`, `#part`. */
  readonly target: string
}

/**
 * The links and images of a page that do not lead to the web. Code blocks and code spans are
 * ignored.
 */
export function relativeLinks(markdown: string): PageLink[] {
  return proseLines(markdown).flatMap((text, index) => {
    const inline = [...text.matchAll(/\]\(\s*<?([^)\s>]+)/g)]
    const references = [...text.matchAll(/^\s*\[[^\]]+\]:\s*<?([^\s>]+)/g)]
    return [...inline, ...references]
      .map(([, target = '']) => ({ line: index + 1, target }))
      .filter(({ target }) => !/^[a-z][a-z\d+.-]*:/i.test(target))
  })
}

/** The anchors that GitHub gives to the headings of a page. */
export function headingAnchors(markdown: string): Set<string> {
  const anchors = new Set<string>()
  const lines = markdown.split(/\r?\n/)
  for (const [index, prose] of proseLines(markdown).entries()) {
    // A heading may contain code, whose text counts.
    const text = prose.startsWith('#') ? /^#{1,6}\s+(.*?)\s*#*$/.exec(lines[index] ?? '')?.[1] : undefined
    if (text === undefined) continue
    const anchor = text.toLowerCase().replaceAll(/[^\p{L}\p{M}\p{N}\s_-]/gu, '').replaceAll(/\s/g, '-')
    let unique = anchor
    for (let copy = 1; anchors.has(unique); copy++) unique = `${anchor}-${copy}`
    anchors.add(unique)
  }
  return anchors
}

/** What links may lead to. */
export interface LinkTargets {
  /** Whether a path, relative to the root, may be linked. */
  has(path: string): boolean
  /** The text of a page. */
  textOf(path: string): string
}

/** Every broken link of a page, with its line. */
export function brokenLinks(page: string, targets: LinkTargets): string[] {
  return relativeLinks(targets.textOf(page)).flatMap(({ line, target }) => {
    const [file = '', anchor] = target.split('#')
    const path = file === '' ? page : posix.join(posix.dirname(page), decodeURIComponent(file))
    const isBroken =
      !targets.has(path) ||
      (anchor !== undefined && path.endsWith('.md') && !headingAnchors(targets.textOf(path)).has(anchor))
    return isBroken ? [`${page}, line ${line}: ${target}`] : []
  })
}

/** The lines of a page without code blocks and code spans. */
function proseLines(markdown: string): string[] {
  const lines = markdown.split(/\r?\n/)
  for (const { line, code } of codeBlocks(markdown)) {
    // Removes the fences too. The code ends in a line feed unless it is empty.
    lines.fill('', line - 1, line + code.split('\n').length)
  }
  return lines.map((text) => text.replaceAll(/(`+)[^`]*?\1/g, ''))
}
