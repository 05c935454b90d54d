// Installs a pack: downloads what its folder lacks, checks what is there, and writes pack.json last.
// A pull that fails leaves no new pack.json; the one written records the size and sha256 of every file found.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, readdir, rm, rmdir, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { FlexitError, fileError, systemErrorCode } from '../errors.js'
import { makeFolder, writeFileAtomic } from '../files.js'
import { checkContent } from './check.js'
import { type DownloadOptions, type Progress, downloadFile } from './download.js'
import { absentFiles, isPackPath, packsFolder, resolvePack, selectNetworks, shippedFolder } from './locations.js'
import { type Manifest, type PackFile, manifestName, readManifest, requiredFiles } from './manifest.js'
import { checkFolder, lockPattern } from './write-pack.js'

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
 * on with. A file whose sha256 nobody has stated must hold the network that the pack takes it for. Errors: those of
 * `resolvePack` and `downloadFile`; INVALID_ARGUMENT (no such network); DATA_LOSS (another network, or none);
 * FAILED_PRECONDITION (another pull is at work there, `to` holds something else, or a file has no source).
 */
export async function pullPack(nameOrPath: string, options: PullOptions = {}): Promise<PulledPack> {
  const isPath = isPackPath(nameOrPath)
  const home = isPath ? resolve(nameOrPath) : join(packsFolder(), nameOrPath)
  const folder = options.to === undefined ? home : resolve(options.to)
  const shippedHome = join(shippedFolder, nameOrPath)
  const shipped = isPath ? undefined : await readManifest(shippedHome).catch(() => undefined)
  const manifest = isPath ? await readManifest(home) : await newestManifest(nameOrPath, shipped)
  const required = [...new Set(requiredFiles(manifest, selectNetworks(manifest, options.networks)))]
  const ships = !isPath && folder === home && (await absentFiles(shippedHome, required)).length === 0
  if (ships) return { folder: shippedHome, manifest, downloaded: [] }

  if (options.to !== undefined) await checkFolder(folder, manifest.name, Object.keys(manifest.files))
  const isNew = !(await isThere(folder))
  const release = await lock(folder)
  try {
    return await complete(folder, { manifest, path: join(home, manifestName), shipped, required }, options)
  } finally {
    await release()
    // Fails where anything has arrived, as it should.
    if (isNew) await rmdir(folder).catch(() => undefined)
  }
}

interface Wanted {
  readonly manifest: Manifest
  /** Where it was found. */
  readonly path: string
  /** The one that ships under the name that was given. */
  readonly shipped: Manifest | undefined
  /** Files. */
  readonly required: readonly string[]
}

/** Fetch what is not there, or wrong, then write the manifest. */
async function complete(folder: string, wanted: Wanted, options: PullOptions): Promise<PulledPack> {
  const { manifest, required } = wanted
  const files = { ...manifest.files }
  const downloaded: string[] = []
  for (const file of required) {
    const entry = manifest.files[file]!
    const report = await inspect(folder, file, entry, true, options.onProgress, options.signal)
    const isFetched = report.state === 'missing' || report.state === 'wrong'
    const { bytes, sha256 } = isFetched ? await fetchFile(folder, file, wanted, options) : report
    if (entry.sha256 === undefined && entry.sha256Prefix === undefined) {
      await checkContent(folder, file, manifest).catch(async (error: unknown) => {
        // The next pull is to fetch it again; a file that somebody laid there is theirs.
        if (isFetched) await rm(join(folder, file), { force: true })
        throw error
      })
    }
    if (isFetched) downloaded.push(file)
    files[file] = { ...entry, bytes, sha256 }
  }
  const found = { ...manifest, files }
  await writeFileAtomic(join(folder, manifestName), `${JSON.stringify(found, undefined, 2)}\n`)
  return { folder, manifest: found, downloaded }
}

async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
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
async function newestManifest(name: string, shipped: Manifest | undefined): Promise<Manifest> {
  const installed = await readManifest(join(packsFolder(), name)).catch(() => undefined)
  if (!shipped) return (await resolvePack(name)).manifest
  const files = Object.entries(shipped.files).map(([file, entry]) => {
    const known = installed?.files[file]
    const isSame = known && JSON.stringify(known.sources) === JSON.stringify(entry.sources)
    return [file, isSame && known.bytes === (entry.bytes ?? known.bytes) ? { ...known, ...entry } : entry] as const
  })
  return { ...shipped, files: Object.fromEntries(files) }
}

async function fetchFile(folder: string, file: string, { manifest, path, shipped }: Wanted, options: PullOptions) {
  const { sources, ...known } = manifest.files[file]!
  if (sources !== undefined && sources.length > 0) {
    const isNoted = known.sha256 !== undefined && shipped?.files[file]?.sha256 === undefined
    return downloadFile({ ...options, ...known, sources, path: join(folder, file) }).catch((error: unknown) => {
      throw isNoted ? notedError(error, file, path) : error
    })
  }
  throw new FlexitError({
    code: 'FAILED_PRECONDITION',
    message: `pack ${manifest.name} names no source for ${file}`,
    cure: `Copy ${file} by hand into ${folder}.`,
  })
}

/** The error of a file that is refused for a sha256 that perhaps only an earlier pull has stated, in the manifest `path`. */
function notedError(error: unknown, file: string, path: string): unknown {
  if (!(error instanceof FlexitError) || error.code !== 'DATA_LOSS') return error
  const { code, message } = error
  const cure = `If it is the right file, and an earlier pull noted its sha256, delete bytes and sha256 of ${file} from ${path}.`
  return new FlexitError({ code, message, cure, cause: error })
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
    // One that stays is removed by a later pull, and must not hide why this one failed.
    await rm(own, { force: true }).catch(() => undefined)
  }
  try {
    await makeFolder(folder)
    // One that a process of the same number has left behind (in containers numbers repeat).
    await rm(own, { force: true })
    await (await open(own, 'wx')).close()
    for (const name of await readdir(folder)) {
      const pid = Number(lockPattern.exec(name)?.[1] ?? process.pid)
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
