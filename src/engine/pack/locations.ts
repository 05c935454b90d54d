// Where packs and caches live, and how a user's word for a pack becomes a folder.
// Follows the XDG Base Directory specification; FLEXIT_HOME stands above it.

import { access, readdir } from 'node:fs/promises'
import { homedir } from 'node:os'
import { basename, isAbsolute, join, resolve, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { FlexitError, fileError, invalidArgument, systemErrorCode } from '../errors.js'
import { type ClipEntry, type Manifest, manifestName, readManifest, requiredFiles } from './manifest.js'

export interface ResolvedPack {
  readonly folder: string
  readonly manifest: Manifest
  /**
   * Files that are not in the folder: those that the pack's networks need (not its optional ones), and `pack.json`, which
   * a pull writes last.
   */
  readonly missing: string[]
}

export interface PackListing {
  readonly name: string
  readonly folder: string
  readonly state: 'ready' | 'not downloaded' | 'incomplete' | 'broken'
  readonly missing: readonly string[]
  /** Undefined for a pack that is broken. */
  readonly manifest: Manifest | undefined
  /** What is broken. */
  readonly problem: string | undefined
}

/** The folder with a folder for each installed pack. */
export function packsFolder(): string {
  return homeOr('packs', 'XDG_DATA_HOME', '.local/share')
}

/** Everything in it can be made again. */
export function cacheFolder(): string {
  return homeOr('cache', 'XDG_CACHE_HOME', '.cache')
}

/** The `models` folder of this package, seen from `dist/src/engine/pack`. */
export const shippedFolder = fileURLToPath(new URL('../../../../models', import.meta.url))

function homeOr(what: 'packs' | 'cache', variable: string, fallback: string): string {
  const home = process.env['FLEXIT_HOME']
  if (home) return resolve(home, what)
  const base = process.env[variable]
  // The specification: a relative path is invalid and to be ignored.
  const flexit = join(base && isAbsolute(base) ? base : join(homedir(), fallback), 'flexit')
  return what === 'packs' ? join(flexit, 'packs') : flexit
}

/** Whether a user's word for a pack is the path of its folder: `./NAME`, not a plain name, whatever lies around. */
export function isPackPath(nameOrPath: string): boolean {
  return nameOrPath.includes('/') || nameOrPath.includes(sep) || nameOrPath === '.' || nameOrPath === '..'
}

/** What to call the pack in a folder that was named. */
export function packPath(folder: string): string {
  return isPackPath(folder) ? folder : `.${sep}${folder}`
}

/**
 * Find a pack by its name (an installed one before one that ships) or by the path of its folder. A pack that ships
 * without weights is looked for among the installed ones, where a pull puts them.
 * Errors: NOT_FOUND (with the names that exist), DATA_LOSS (its manifest is broken).
 */
export async function resolvePack(nameOrPath: string): Promise<ResolvedPack> {
  if (isPackPath(nameOrPath)) return packIn(resolve(nameOrPath))
  const installed = join(packsFolder(), nameOrPath)
  const shipped = join(shippedFolder, nameOrPath)
  if (isName(nameOrPath)) {
    if (await exists(join(installed, manifestName))) return packIn(installed)
    if (await exists(join(shipped, manifestName))) {
      const pack = await packIn(shipped)
      return pack.missing.length === 0 ? pack : await packIn(installed, pack.manifest)
    }
  }
  const isFolder = await exists(join(nameOrPath, manifestName))
  throw new FlexitError({
    code: 'NOT_FOUND',
    message: `no pack is called "${nameOrPath}"; there are: ${(await packNames()).join(', ')}`,
    cure: isFolder
      ? `Write ${packPath(nameOrPath)} for the folder of this name.`
      : 'Use one of these names, or the path of a folder that has a pack.json.',
  })
}

/**
 * Find a pack that can be used now, with the CLIP networks named (default: all that are not optional).
 * Errors: those of `resolvePack`; INVALID_ARGUMENT (no such network); FAILED_PRECONDITION (files are missing).
 */
export async function requirePack(nameOrPath: string, networks?: readonly string[]): Promise<ResolvedPack> {
  const { folder, manifest } = await resolvePack(nameOrPath)
  const required = requiredFiles(manifest, selectNetworks(manifest, networks))
  const missing = await absentFiles(folder, [...required, manifestName])
  if (missing.length === 0) return { folder, manifest, missing }
  const weights = missing.filter((file) => file !== manifestName)
  const sizes = weights.map((file) => manifest.files[file]?.bytes)
  const bytes = sizes.every((size) => size !== undefined) ? `, ${formatBytes(sizes.reduce((a, b) => a + b, 0))}` : ''
  const count = weights.length === 1 ? '1 file' : `${weights.length} files`
  const absent = weights.length === 0 ? `its ${manifestName} is missing` : `${count}${bytes} missing`
  const canPull = weights.every((file) => manifest.files[file]?.sources?.length)
  const name = isPackPath(nameOrPath) ? folder : nameOrPath
  const pull = `npx flexit models pull ${name}${networks ? ` --networks ${networks.join(',')}` : ''}`
  throw new FlexitError({
    code: 'FAILED_PRECONDITION',
    message: `pack ${manifest.name} is ${stateOf(missing, required)} (${absent})`,
    cure: canPull
      ? `Run \`${pull}\`${weights.length === 0 ? ': it checks the files that are there' : ''}.`
      : `Copy ${missing.join(', ')} into ${folder}.`,
  })
}

/** The CLIP networks of these names, or all that are not optional. Errors: INVALID_ARGUMENT, with the names that exist. */
export function selectNetworks(manifest: Manifest, names?: readonly string[]): ClipEntry[] {
  if (names === undefined) return manifest.clip.filter((network) => !network.optional)
  return names.map((name) => {
    const found = manifest.clip.find((network) => network.name === name)
    if (found) return found
    const known = manifest.clip.map((network) => network.name).join(', ')
    throw invalidArgument('networks', `pack ${manifest.name} has no network "${name}"`, `Choose among ${known}.`)
  })
}

/** Every pack that can be named, in alphabetical order. A pack that is broken is listed as such. */
export async function listPacks(): Promise<PackListing[]> {
  return Promise.all((await packNames()).map(listing))
}

async function listing(name: string): Promise<PackListing> {
  try {
    const { folder, manifest, missing } = await resolvePack(name)
    return { name, folder, state: stateOf(missing, requiredFiles(manifest)), missing, manifest, problem: undefined }
  } catch (error) {
    if (!(error instanceof FlexitError)) throw error
    const folder = join(packsFolder(), name)
    return { name, folder, state: 'broken', missing: [], manifest: undefined, problem: error.message }
  }
}

function stateOf(missing: readonly string[], required: readonly string[]): 'ready' | 'not downloaded' | 'incomplete' {
  if (missing.length === 0) return 'ready'
  return required.every((file) => missing.includes(file)) ? 'not downloaded' : 'incomplete'
}

async function packNames(): Promise<string[]> {
  const names = new Set<string>()
  for (const parent of [packsFolder(), shippedFolder]) {
    for (const name of await foldersOf(parent)) {
      if (isName(name) && (await exists(join(parent, name, manifestName)))) names.add(name)
    }
  }
  return [...names].sort()
}

async function foldersOf(parent: string): Promise<string[]> {
  try {
    return await readdir(parent)
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return []
    throw fileError(error, parent, 'read')
  }
}

async function packIn(folder: string, known?: Manifest): Promise<ResolvedPack> {
  const manifest = known ?? (await readManifest(folder))
  return { folder, manifest, missing: await absentFiles(folder, [...requiredFiles(manifest), manifestName]) }
}

/** Those of `files` that are not in `folder`. */
export async function absentFiles(folder: string, files: readonly string[]): Promise<string[]> {
  const absent: string[] = []
  for (const file of new Set(files)) if (!(await exists(join(folder, file)))) absent.push(file)
  return absent
}

/** Nothing hidden and no way up: a name stays inside the folder of packs. */
function isName(text: string): boolean {
  return /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(text) && basename(text) === text
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}

/** "1.2 GB": decimal units, two digits. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB']
  const unit = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), units.length - 1)
  const value = bytes / 1000 ** unit
  return `${value < 10 && unit > 0 ? value.toFixed(1) : value.toFixed(0)} ${units[unit]!}`
}
