// `flexit models verify`: holds every file of a pack against its manifest.
// Files of optional networks may be absent.

import { Command } from 'commander'
import { FlexitError } from '../../engine/errors.js'
import { formatBytes, requirePack, resolvePack } from '../../engine/pack/locations.js'
import { manifestName } from '../../engine/pack/manifest.js'
import { type FileReport, verifyPack } from '../../engine/pack/pull.js'
import { createProgress } from '../progress.js'
import { fileProgress } from './file-progress.js'

export function verifyCommand(): Command {
  return new Command('verify')
    .description('Compare the size and sha256 of every file of a pack with its manifest.')
    .argument('<pack>', 'name, or path (./FOLDER) of a folder with a pack.json')
    .option('--quiet', 'show no progress')
    .action(verify)
}

async function verify(pack: string, { quiet = false }: { readonly quiet?: boolean }): Promise<void> {
  const { folder, manifest, missing } = await resolvePack(pack)
  if (missing.includes(manifestName)) await requirePack(pack) // an error, with the cure
  const progress = createProgress({ quiet: quiet || !process.stderr.isTTY })
  const reports = await verifyPack(folder, fileProgress(progress).onProgress).finally(() => progress.end())
  const width = Math.max(...reports.map(({ file }) => file.length))
  for (const report of reports) console.log(`${report.file.padEnd(width)}  ${verdict(report)}`)
  const bad = reports.filter(({ state, required }) => state === 'wrong' || (state === 'missing' && required))
  if (bad.length === 0) return
  throw new FlexitError({
    code: 'DATA_LOSS',
    message: `pack ${manifest.name} in ${folder} is not whole: ${bad.map(({ file }) => file).join(', ')}`,
    cure: bad.every(({ file }) => manifest.files[file]?.sources?.length)
      ? `Run \`npx flexit models pull ${pack}\`.`
      : 'Restore these files.',
  })
}

function verdict({ state, required, bytes, sha256, problem }: FileReport): string {
  switch (state) {
    case 'ok':
      return `ok, ${formatBytes(bytes ?? 0)}, sha256 ${sha256 ?? ''}`
    case 'unlocked':
      return `present, ${formatBytes(bytes ?? 0)}; the manifest states nothing to compare with`
    case 'missing':
      return required ? 'MISSING' : 'not downloaded (optional)'
    case 'wrong':
      return `WRONG: ${problem ?? ''}`
  }
}
