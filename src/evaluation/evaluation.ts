// Table 1 of FlexIT (CVPR 2022): COPY, ENCODE, RETRIEVE and the edits after some numbers of steps, judged over all
// queries; and the same by cluster, as in its figure 6.

import { createHash } from 'node:crypto'
import type { EditParameters } from '../engine/parameters.js'
import type { Picture } from '../engine/picture.js'
import { type Estimates, type Resampling, estimates, measureAll, resample } from './bootstrap.js'
import type { Editor } from './editor.js'
import { type EditProgress, editPictures, makeEdits } from './edits.js'
import { type Measures, type Verdict, measure } from './metrics.js'
import { judgePictures } from './opinions.js'
import { retrieve } from './references.js'
import { type Scene, breathe, jobsOf } from './scene.js'

export interface EvaluationOptions {
  readonly editor: Editor
  /** None left out; `steps` is replaced by the last of `at`. */
  readonly parameters: EditParameters
  /** Numbers of steps after which edits are judged, ascending. */
  readonly at: readonly number[]
  readonly resampling: Resampling
  readonly onEdits: (progress: EditProgress) => void
}

export interface EvaluationRow {
  readonly name: string
  /** Steps of an edit; undefined for the baselines. */
  readonly steps: number | undefined
  /** One for each query. */
  readonly verdicts: readonly Verdict[]
  readonly estimates: Estimates
}

/** Figure 6: real pictures of the targets, the edits after all steps, and the input. */
export interface ClusterResult {
  readonly cluster: string
  readonly queries: number
  readonly retrieve: Measures
  readonly edit: Measures
  readonly copy: Measures
}

export interface Evaluation {
  readonly rows: readonly EvaluationRow[]
  readonly clusters: readonly ClusterResult[]
  /** Edits that ended early because their numbers were no longer finite. */
  readonly failed: number
  /** sha256 of all pictures and verdicts: equal for equal results. */
  readonly digest: string
  /** Pictures of a query, in the order of the rows. */
  readonly pictures: (query: number) => Promise<readonly Picture[]>
}

/** Errors: those of making edits and of judging them; CANCELLED. */
export async function evaluate(scene: Scene, options: EvaluationOptions): Promise<Evaluation> {
  const { editor, parameters, resampling, onEdits } = options
  const at = [0, ...options.at]
  const jobs = jobsOf(scene, parameters, at)
  const retrieved = scene.queries.map((query) => retrieve(scene.references, query, resampling.seed))
  await checkPictures(scene, retrieved)
  const { store, signal } = scene
  const edits = await makeEdits(jobs, { editor, store, signal, onProgress: onEdits })

  // In the space of pixels nothing is encoded, and the picture of step 0 is the input.
  const encodes = parameters.space === 'latent'
  const names = ['COPY', ...(encodes ? ['ENCODE'] : []), 'RETRIEVE', ...options.at.map((n) => `FlexIT, ${stepsOf(n)}`)]
  const picturesOf = async (i: number) => {
    const [first, ...rest] = (await editPictures(store, edits[i]!, jobs[i]!)) as [Picture, ...Picture[]]
    return [scene.inputs[i]!, ...(encodes ? [first] : []), await scene.read(retrieved[i]!), ...rest]
  }

  const classes = [...scene.classes.keys()]
  const hash = createHash('sha256')
  const verdicts: Verdict[][] = names.map(() => [])
  for (const [i, input] of scene.inputs.entries()) {
    scene.onStage('queries judged', i, jobs.length)
    await breathe(signal)
    const pictures = await picturesOf(i)
    const judged = await judgePictures(scene, input, pictures, classes)
    for (const [row, verdict] of judged.entries()) {
      verdicts[row]!.push(verdict)
      hash.update(pictures[row]!.data).update(`${verdict.predicted} ${verdict.lpips}`)
      for (const feature of verdict.features) hash.update(` ${feature}`)
    }
  }
  const sets = resample(jobs.length, resampling)
  const rows: EvaluationRow[] = []
  for (const [row, name] of names.entries()) {
    await breathe(signal)
    const steps = options.at[row - names.length + options.at.length]
    const measured = measureAll(verdicts[row]!, scene.targets, scene.statistics, sets)
    rows.push({ name, steps, verdicts: verdicts[row]!, estimates: estimates(measured) })
  }
  return {
    rows,
    clusters: byCluster(scene, {
      copy: verdicts[0]!,
      retrieve: verdicts[names.indexOf('RETRIEVE')]!,
      edit: verdicts.at(-1)!,
    }),
    failed: edits.filter(({ failed }) => failed).length,
    digest: hash.digest('hex'),
    pictures: picturesOf,
  }
}

/** Pictures that cannot be read are told of before hours of edits. Errors: those of reading; CANCELLED. */
async function checkPictures({ read, onStage, signal }: Scene, paths: readonly string[]): Promise<void> {
  const different = [...new Set(paths)]
  for (const [i, path] of different.entries()) {
    onStage('pictures to retrieve', i, different.length)
    await breathe(signal)
    await read(path)
  }
}

export function stepsOf(steps: number): string {
  return steps === 1 ? '1 step' : `${steps} steps`
}

function byCluster(
  { queries, targets, statistics }: Scene,
  rows: Readonly<Record<'copy' | 'retrieve' | 'edit', readonly Verdict[]>>,
): ClusterResult[] {
  const clusters = new Map<string, number[]>()
  for (const [i, { cluster }] of queries.entries()) clusters.set(cluster, [...(clusters.get(cluster) ?? []), i])
  return [...clusters].map(([cluster, indices]) => {
    const of = (verdicts: readonly Verdict[]) => measure(verdicts, targets, statistics, indices)
    return { cluster, queries: indices.length, copy: of(rows.copy), retrieve: of(rows.retrieve), edit: of(rows.edit) }
  })
}
