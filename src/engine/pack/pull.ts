// Installs a pack: downloads what its folder lacks, checks what is there, and writes pack.json last.
// A pull that fails leaves no new pack.json; the one written records the size and sha256 of every file found.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, readdir, rm, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { FlexitError, fileError, systemErrorCode } from '../errors.js'
import { makeFolder, writeFileAtomic } from '../files.js'
import { type DownloadOptions, type Progress, downloadFile } from './download.js'
import { absentFiles, isPackPath, packsFolder, resolvePack, selectNetworks, shippedFolder } from './locations.js'
import { type Manifest, type PackFile, manifestName, readManifest, requiredFiles } from './manifest.js'

export interface PullOptions extends Pick<
  DownloadOptions,
  'onProgress' | 'signal' | 'token' | 'endpoint' | 'inactivityMs' | 'retryDelayMs'
> {
  /** CLIP networks by name. Default: all that are not optional. */
  readonly networks?: readonly string[] | undefined
  /** The pack's own folder. Default: `packs/NAME` among the installed packs, or the folder that was named. */
  readonly to?: string | undefined
}

export interface PulledPack {
  readonly folder: string
  /** As written to pack.json, with what was found. */
  readonly manifest: Manifest
  /** Files that were fetched now; the others were there. */
  readonly downloaded: readonly string[]
}

export interface FileReport {
  readonly file: string
  /** `unlocked`: it is there, but the manifest has neither size nor sha256 to hold against it. */
  readonly state: 'ok' | 'missing' | 'wrong' | 'unlocked'
  /** Whether the pack's networks, its optional ones aside, need it. */
  readonly required: boolean
  readonly bytes: number | undefined
  readonly sha256: string | undefined
  /** What is wrong, with what was expected. */
  readonly problem: string | undefined
}

/**
 * Download a pack's missing or wrong files, one after the other, into its folder; what an earlier pull has begun is gone
 * on with. Errors: those of `resolvePack` and `downloadFile`; INVALID_ARGUMENT (no such network); FAILED_PRECONDITION
 * (another pull is at work there, or a file has no source).
 */
export async function pullPack(nameOrPath: string, options: PullOptions = {}): Promise<PulledPack> {
  const isPath = isPackPath(nameOrPath)
  const home = isPath ? resolve(nameOrPath) : join(packsFolder(), nameOrPath)
  const folder = options.to === undefined ? home : resolve(options.to)
  const manifest = isPath ? await readManifest(home) : await newestManifest(nameOrPath)
  const required = [...new Set(requiredFiles(manifest, selectNetworks(manifest, options.networks)))]
  const shipped = join(shippedFolder, nameOrPath)
  const isThere = !isPath && folder === home && (await absentFiles(shipped, required)).length === 0
  if (isThere) return { folder: shipped, manifest, downloaded: [] }

  const release = await lock(folder)
  try {
    const files = { ...manifest.files }
    const downloaded: string[] = []
    for (const file of required) {
      const entry = manifest.files[file]!
      const report = await inspect(folder, file, entry, true, options.onProgress, options.signal)
      let { bytes, sha256 } = report
      if (report.state === 'missing' || report.state === 'wrong') {
        ;({ bytes, sha256 } = await fetchFile(manifest.name, folder, file, entry, options))
        downloaded.push(file)
      }
      files[file] = { ...entry, bytes, sha256 }
    }
    const found = { ...manifest, files }
    await writeFileAtomic(join(folder, manifestName), `${JSON.stringify(found, undefined, 2)}\n`)
    return { folder, manifest: found, downloaded }
  } finally {
    await release()
  }
}

/** Check each file that the manifest in `folder` lists. Errors: NOT_FOUND or DATA_LOSS (the manifest). */
export async function verifyPack(folder: string, onProgress?: (progress: Progress) => void): Promise<FileReport[]> {
  const manifest = await readManifest(folder)
  const required = new Set(requiredFiles(manifest))
  const reports: FileReport[] = []
  for (const [file, entry] of Object.entries(manifest.files)) {
    reports.push(await inspect(folder, file, entry, required.has(file), onProgress))
  }
  return reports
}

/** What ships may be newer than what is installed; it takes over the hashes that an earlier pull has found. */
async function newestManifest(name: string): Promise<Manifest> {
  const installed = await readManifest(join(packsFolder(), name)).catch(() => undefined)
  const shipped = await readManifest(join(shippedFolder, name)).catch(() => undefined)
  if (!shipped) return (await resolvePack(name)).manifest
  const files = Object.entries(shipped.files).map(([file, entry]) => {
    const known = installed?.files[file]
    const isSame = known && JSON.stringify(known.sources) === JSON.stringify(entry.sources)
    return [file, isSame && known.bytes === (entry.bytes ?? known.bytes) ? { ...known, ...entry } : entry] as const
  })
  return { ...shipped, files: Object.fromEntries(files) }
}

async function fetchFile(pack: string, folder: string, file: string, entry: PackFile, options: PullOptions) {
  const { sources, ...known } = entry
  if (sources !== undefined && sources.length > 0) {
    return downloadFile({ ...options, ...known, sources, path: join(folder, file) })
  }
  throw new FlexitError({
    code: 'FAILED_PRECONDITION',
    message: `pack ${pack} names no source for ${file}`,
    cure: `Copy ${file} by hand into ${folder}.`,
  })
}

async function inspect(
  folder: string,
  file: string,
  entry: PackFile,
  required: boolean,
  onProgress?: (progress: Progress) => void,
  signal?: AbortSignal,
): Promise<FileReport> {
  const path = join(folder, file)
  const report = (state: FileReport['state'], bytes?: number, sha256?: string, problem?: string): FileReport => {
    return { file, state, required, bytes, sha256, problem }
  }
  try {
    const { size } = await stat(path)
    if (entry.bytes !== undefined && size !== entry.bytes) {
      return report('wrong', size, undefined, `${size} bytes, expected ${entry.bytes}`)
    }
    const hash = createHash('sha256')
    let receivedBytes = 0
    for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20, ...(signal ? { signal } : {}) })) {
      hash.update(chunk as Uint8Array)
      receivedBytes += (chunk as Uint8Array).length
      onProgress?.({ file, receivedBytes, totalBytes: size })
    }
    const sha256 = hash.digest('hex')
    const expected = entry.sha256 ?? entry.sha256Prefix ?? ''
    if (!sha256.startsWith(expected)) return report('wrong', size, sha256, `sha256 ${sha256}, expected ${expected}`)
    const isKnown = entry.bytes !== undefined || expected !== ''
    return report(isKnown ? 'ok' : 'unlocked', size, sha256)
  } catch (error) {
    if (signal?.aborted) throw new FlexitError({ code: 'CANCELLED', message: `the check of ${file} was stopped` })
    if (systemErrorCode(error) === 'ENOENT') return report('missing', undefined, undefined, 'it is not there')
    throw fileError(error, path, 'read')
  }
}

/** Folders that this process pulls into. */
const pulling = new Set<string>()

/**
 * Make sure that no other pull works in `folder`; returns what ends that. Every pull creates its own file, then looks for
 * others: of two that begin at once, both may give up, but never both go on. The file of a process that is gone is removed.
 */
async function lock(folder: string): Promise<() => Promise<void>> {
  if (pulling.has(folder)) throw busy(folder, process.pid)
  pulling.add(folder)
  const own = join(folder, lockName(process.pid))
  const release = async () => {
    pulling.delete(folder)
    await rm(own, { force: true })
  }
  try {
    await makeFolder(folder)
    // One that a process of the same number has left behind (in containers numbers repeat).
    await rm(own, { force: true })
    await (await open(own, 'wx')).close()
    for (const name of await readdir(folder)) {
      const pid = Number(/^\.pull-(\d+)\.lock$/.exec(name)?.[1] ?? process.pid)
      if (pid === process.pid) continue
      if (isAlive(pid)) throw busy(folder, pid)
      await rm(join(folder, name), { force: true })
    }
    return release
  } catch (error) {
    await release()
    throw fileError(error, folder, 'write to')
  }
}

function lockName(pid: number): string {
  return `.pull-${pid}.lock`
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return systemErrorCode(error) === 'EPERM'
  }
}

function busy(folder: string, pid: number): FlexitError {
  return new FlexitError({
    code: 'FAILED_PRECONDITION',
    message: `another pull (process ${pid}) is at work in ${folder}`,
    cure: `Wait for it to end; if there is none, delete ${join(folder, lockName(pid))}.`,
  })
}
