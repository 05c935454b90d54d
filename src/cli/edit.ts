// `flexit edit`: a picture, what is in it, and what it should become; or a saved edit that goes on.
// The method is FlexIT's (CVPR 2022).

import { dirname, join } from 'node:path'
import { Command } from 'commander'
import { type SavedEdit, readEditFile } from '../engine/edit-file.js'
import { FlexitError, invalidArgument } from '../engine/errors.js'
import type { EditParameters } from '../engine/parameters.js'
import { chosenPack } from './chosen-pack.js'
import { type EditFiles, usualSaveEvery } from './edit-record.js'
import { interruptible } from './interruption.js'
import { type Maker, beginEdit, engineMaker } from './maker.js'
import { type EngineChoice, withEngine } from './open-engine.js'
import { checkOutputs, slug, stemOf } from './outputs.js'
import { addParameters, givenParameters, parseCount, parseThreads, shellWord } from './parameters.js'
import { type Progress, counted, createProgress } from './progress.js'
import { remoteMaker } from './remote-maker.js'
import { type RemoteOptions, addRemoteOptions, checkServerOptions } from './remote.js'
import { runEdit } from './run-edit.js'

interface EditOptions extends RemoteOptions {
  readonly source?: string
  readonly target?: string
  readonly pack?: string
  readonly networks?: string[]
  readonly space?: string
  readonly out?: string
  readonly filmstrip?: string
  readonly animation?: string
  readonly latents?: string
  readonly preview?: string
  readonly saveEvery?: number
  readonly resume?: string
  readonly device?: string
  readonly threads?: number
  readonly json?: boolean
  readonly quiet?: boolean
}

const examples = `
Examples:
  flexit edit cat.jpg --source cat --target dog --pack imagenet
  flexit edit apple.png --source "red apple" --target tangerine --out tangerine.png --filmstrip strip.png
  flexit edit apple.png --source apple --target pear --latents pear.safetensors      stop with Ctrl-C, then
  flexit edit --resume pear.safetensors --steps 160                                  go on, and on for longer
  flexit edit apple.png --source apple --target pear --server gpu-1:50051,gpu-2:50051
  flexit edit apple.png --source apple --target pear --json | jq 'select(.event == "step").similarityTarget'

The picture's largest centred square is edited, at the pack's size (tiny: 64, imagenet: 288 pixels).
Exit codes: 0 done, 1 failed, 2 a wrong request, 130 stopped.`

export function editCommand(): Command {
  const command = new Command('edit')
    .summary('edit a picture by text')
    .description('Edit a picture so that it shows the target text where it shows the source text.')
    .argument('[image]', 'JPEG, PNG, WebP, AVIF, GIF, TIFF or SVG file')
    .option('--source <text>', 'what is in the picture')
    .option('--target <text>', 'what it should become')
    .option('--pack <name|path>', 'networks to use: see `flexit models list` (default: tiny)')
    .option(
      '--resume <file>',
      'go on with a saved edit in place of an image; all parameters but --space may be changed',
    )
    .optionsGroup('Files (each is replaced only by a whole new one):')
    .option('--out <file>', 'the result: .png, .webp or .jpg (default: flexit-out/IMAGE-TARGET.png)')
    .option('--filmstrip <file>', 'the way there, every Nth step in one picture; of thousands, what fits: .png')
    .option('--animation <file>', 'the way there, moving; with --resume, of earlier steps those that were saved: .webp')
    .option(
      '--latents <file>',
      'the state, to be resumed, and the latent of every Nth step: .safetensors (default: that of --resume)',
    )
    .option('--preview <file>', 'the newest preview, again and again: .png, .webp or .jpg')
    .option(
      '--save-every <n>',
      'N: of --latents and --filmstrip: every so many steps (default: 16, or a 20th of --steps)',
      parseCount,
    )
  return addRemoteOptions(addParameters(command))
    .optionsGroup('Running:')
    .option('--device <name>', 'cpu, cuda:0, tensorrt:0 or webgpu; never falls back to another (default: cpu)')
    .option('--threads <n>', 'of the CPU (default: one for each core)', parseThreads)
    .option('--json', 'a line of JSON for every step and for the result, on stdout')
    .option('--quiet', 'show only errors')
    .addHelpText('after', examples)
    .action((image: string | undefined, options: EditOptions) =>
      interruptible((signal) => edit(image, options, signal)),
    )
}

async function edit(image: string | undefined, options: EditOptions, signal: AbortSignal): Promise<void> {
  checkServerOptions({ ...options })
  const { latents = options.resume, resume, filmstrip, animation } = options
  const resumed = resume === undefined ? undefined : readResumed(resume, image, options)
  if (resumed === undefined && image === undefined) {
    throw invalidArgument('image', 'no picture is named', 'Name one, or a saved edit with --resume FILE.')
  }
  const { source = '', target = '' } = resumed?.state ?? options
  const name = resume === undefined ? stemOf(image!, `-${slug(target)}`) : stemOf(resume)
  const files: EditFiles = { picture: options.out ?? join('flexit-out', `${name}.png`), filmstrip, animation, latents }
  await checkFiles({ ...files, preview: options.preview }, image)
  // Of a server's edit so many states come here, to go on from.
  const isKept = (latents ?? filmstrip ?? animation ?? options.server) !== undefined
  if (options.saveEvery !== undefined && !isKept) {
    const message = '--save-every means nothing without --latents, --filmstrip or --animation'
    throw invalidArgument('save-every', message, 'Name a file for the latents: --latents edit.safetensors.')
  }

  const progress = createProgress({ quiet: options.quiet ?? false })
  const given = givenParameters({ ...options })
  const choice = {
    pack: options.pack ?? resumed?.packName,
    networks: given.networks ?? resumed?.state.parameters.networks,
    device: options.device,
    threads: options.threads,
  }
  await withMaker(choice, options, progress, async (maker) => {
    const { pack } = maker
    const state = resumed
      ? { ...resumed.state, parameters: pack.resolve({ ...resumed.state.parameters, ...given }) }
      : await beginEdit(pack, image!, { source, target, parameters: given })
    const { steps, networks, views } = state.parameters
    const changed = resumed === undefined ? [] : changes(resumed.state.parameters, state.parameters)
    const start = state.step > 0 ? `from step ${state.step} to ${steps}` : counted(steps, 'step')
    const where = options.server === undefined ? '' : ` on ${options.server}`
    progress.say(`${JSON.stringify(source)} → ${JSON.stringify(target)}${where}`)
    progress.say(`${pack.name}, ${start}, CLIP ${networks.join(' and ')}, ${counted(views, 'view')}`)
    if (changed.length > 0) progress.say(`changed: ${changed.join(', ')}`)
    const run = {
      maker,
      saved: { state, snapshots: resumed?.snapshots ?? new Map<number, Float32Array>() },
      files,
      preview: options.preview,
      rescue: join(dirname(files.picture), `${stemOf(files.picture)}.safetensors`),
      saveEvery: options.saveEvery ?? usualSaveEvery(steps),
      json: options.json ?? false,
      progress,
      resumeCommand: (path: string) => commandLine({ ...options, resume: path, out: files.picture }),
    }
    await runEdit(run, signal)
  })
}

/** What an edit goes on with otherwise than it began: `seed 0 → 5`. Not its steps. */
function changes(before: EditParameters, after: EditParameters): string[] {
  const keys = Object.keys(after) as (keyof EditParameters)[]
  const differing = keys.filter((key) => key !== 'steps' && String(before[key]) !== String(after[key]))
  return differing.map((key) => `${key} ${String(before[key])} → ${String(after[key])}`)
}

/** Run `work` with what makes the edit: a server where one is named, else an engine. */
async function withMaker(
  choice: EngineChoice,
  options: EditOptions,
  progress: Progress,
  work: (maker: Maker) => Promise<void>,
): Promise<void> {
  const { server } = options
  if (server === undefined) {
    await checkSavedPack(choice, options)
    return withEngine(choice, progress, (engine) => work(engineMaker(engine)))
  }
  const maker = await remoteMaker({ ...options, server, pack: choice.pack, priority: 'interactive' })
  try {
    await work(maker)
  } finally {
    progress.end()
    await maker.close()
  }
}

/** A pack that is named by the saved edit alone may be a folder of any name. Errors: those of `chosenPack`. */
async function checkSavedPack({ pack, networks }: EngineChoice, options: EditOptions): Promise<void> {
  if (options.resume === undefined || options.pack !== undefined) return
  try {
    await chosenPack(pack, networks)
  } catch (error) {
    if (!(error instanceof FlexitError) || !error.message.startsWith('no pack is called')) throw error
    const { code, message } = error
    const cure = 'The saved edit was made with it: name the folder of that pack with --pack.'
    throw new FlexitError({ code, message, cure, cause: error })
  }
}

/** The saved edit, which has a picture and texts of its own. */
function readResumed(path: string, image: string | undefined, { source, target, space }: EditOptions): SavedEdit {
  const reject = (field: string, what: string) =>
    invalidArgument(field, `${what} cannot be given with --resume: the saved edit has its own`, 'Leave it out.')
  if (image !== undefined) throw reject('image', 'an image')
  if (source !== undefined) throw reject('source', '--source')
  if (target !== undefined) throw reject('target', '--target')
  if (space !== undefined) throw reject('space', '--space')
  return readEditFile(path)
}

async function checkFiles(
  { picture, filmstrip, animation, latents, preview }: EditFiles & { readonly preview: string | undefined },
  image: string | undefined,
): Promise<void> {
  const all = [
    { option: '--out', path: picture, extensions: ['.png', '.webp', '.jpg', '.jpeg'] },
    { option: '--filmstrip', path: filmstrip, extensions: ['.png'] },
    { option: '--animation', path: animation, extensions: ['.webp'] },
    { option: '--latents', path: latents, extensions: ['.safetensors'] },
    { option: '--preview', path: preview, extensions: ['.png', '.webp', '.jpg', '.jpeg'] },
  ]
  const outputs = all.flatMap(({ path, ...rest }) => (path === undefined ? [] : [{ ...rest, path }]))
  await checkOutputs(outputs, image)
}

/** What to type to go on with a saved edit. */
function commandLine(options: EditOptions): string {
  const { resume, pack, out, filmstrip, animation, preview, saveEvery, device, threads, server } = options
  const { tls, tlsCa, tlsCert, tlsKey } = options
  const files = { resume, pack, out, filmstrip, animation, preview, 'save-every': saveEvery }
  const flags = { ...files, device, threads, server, 'tls-ca': tlsCa, 'tls-cert': tlsCert, 'tls-key': tlsKey }
  const given = Object.entries(flags).flatMap(([flag, value]) =>
    value === undefined ? [] : [`--${flag} ${shellWord(String(value))}`],
  )
  return ['npx flexit edit', ...given, ...(tls ? ['--tls'] : []), ...(options.json ? ['--json'] : [])].join(' ')
}
