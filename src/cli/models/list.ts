// `flexit models list`: which packs there are, and which can be used now.
// Sizes are those of the networks that are not optional.

import { Command } from 'commander'
import { type PackListing, formatBytes, listPacks } from '../../engine/pack/locations.js'
import { type Manifest, manifestName, requiredFiles } from '../../engine/pack/manifest.js'
import { printable } from '../printable.js'

export function listCommand(): Command {
  return new Command('list').description('Show all packs: where they are, whether they are ready, what they need.').action(list)
}

async function list(): Promise<void> {
  const packs = await listPacks()
  console.log(printable(packs.map(describe).join('\n\n')))
}

function describe({ name, state, folder, missing, manifest, problem }: PackListing): string {
  const lines = [`${name} (${state})`]
  if (problem !== undefined) lines.push(`  ${problem}`)
  if (manifest !== undefined) {
    const { description, image, licence, clip, attribution } = manifest
    const networks = clip.map((network) => (network.optional ? `(${network.name})` : network.name))
    lines.push(
      `  ${description}`,
      `  pictures  ${image.size} × ${image.size}`,
      `  networks  ${networks.join(', ')}`,
      `  size      ${size(manifest)}`,
      `  licence   ${licence}`,
      ...attribution.map(({ set, holder, licence }) => `            ${set}: ${holder}, ${licence}`),
    )
  }
  lines.push(`  folder    ${folder}`)
  const weights = missing.filter((file) => file !== manifestName)
  const canPull = weights.every((file) => manifest?.files[file]?.sources?.length)
  if (missing.length > 0) {
    lines.push(`  get it    ${canPull ? `npx flexit models pull ${name}` : `copy ${missing.join(', ')} into the folder`}`)
  }
  return lines.join('\n')
}

function size(manifest: Manifest): string {
  const sizes = [...new Set(requiredFiles(manifest))].map((file) => manifest.files[file]?.bytes)
  const known = sizes.reduce<number>((sum, bytes) => sum + (bytes ?? 0), 0)
  return `${sizes.includes(undefined) ? 'at least ' : ''}${formatBytes(known)}`
}
