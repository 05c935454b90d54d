// Parameters over a grid: one run of the editor's batches for all settings, giving the curves of figures 7, 9, 10 and 11
// of FlexIT (CVPR 2022) as numbers.

import { invalidArgument } from '../engine/errors.js'
import type { EditParameters } from '../engine/parameters.js'
import {
  type Estimates,
  type Measured,
  type Resampling,
  differences,
  estimates,
  measureAll,
  resample,
} from './bootstrap.js'
import type { Editor } from './editor.js'
import { type EditProgress, editPictures, makeEdits } from './edits.js'
import type { Verdict } from './metrics.js'
import { judgePictures } from './opinions.js'
import { type Panel, plotLines } from './plot.js'
import { type Scene, breathe, jobsOf } from './scene.js'

export interface Setting {
  readonly name: string
  /** Changes to the parameters that all settings start from. */
  readonly parameters: Partial<EditParameters>
}

export interface SweepPlan {
  readonly settings: readonly Setting[]
  /** `curves`: over the steps, one for each setting. Others: over settings, after the last step. */
  readonly plot: 'curves' | 'lines'
  /** Lines of settings, by index. */
  readonly lines: readonly { readonly name: string; readonly settings: readonly number[] }[]
  /** What the x axis shows for the settings of a line; left out: LPIPS. */
  readonly categories?: readonly string[]
  readonly axis?: string
  /** The setting that is marked. */
  readonly dot?: number
}

export const figures = [7, 9, 10, 11] as const
export type Figure = (typeof figures)[number]

export interface SweepOptions {
  readonly editor: Editor
  readonly plan: SweepPlan
  /** Of each setting, none left out. */
  readonly parameters: readonly EditParameters[]
  /** Numbers of steps after which edits are judged, ascending; 0 is added. */
  readonly at: readonly number[]
  readonly resampling: Resampling
  readonly onEdits: (progress: EditProgress) => void
}

export interface SettingResult {
  readonly setting: Setting
  readonly parameters: EditParameters
  /** After each number of steps, from 0 on. */
  readonly curve: readonly { readonly steps: number; readonly estimates: Estimates }[]
  /** Of the last step, minus the first setting's, query by query. */
  readonly difference: Estimates
  /** Edits that ended early because their numbers were no longer finite. */
  readonly failed: number
}

/** Values that a parameter may take in a grid. */
export interface Axis {
  readonly parameter: keyof EditParameters
  readonly values: readonly EditParameters[keyof EditParameters][]
}

/** All combinations; the last axis changes fastest. */
export function gridPlan(axes: readonly Axis[]): SweepPlan {
  let settings: Setting[] = [{ name: '', parameters: {} }]
  for (const { parameter, values } of axes) {
    settings = settings.flatMap((setting) =>
      values.map((value) => ({
        name: `${setting.name} ${parameter}=${Array.isArray(value) ? value.join('+') : String(value)}`.trim(),
        parameters: { ...setting.parameters, [parameter]: value },
      })),
    )
  }
  return { settings, plot: 'curves', lines: [] }
}

/** The settings of one of the paper's figures, around `base`. `networks`: all that the pack has. */
export function figurePlan(figure: Figure, base: EditParameters, networks: readonly string[]): SweepPlan {
  const none = { lambdaP: 0, lambdaZ: 0, lambdaI: 0 }
  const { lambdaP, lambdaZ, lambdaI } = base
  switch (figure) {
    case 7:
      return curves([
        ['no regularizer', none],
        ['LPIPS', { ...none, lambdaP }],
        ['latent', { ...none, lambdaZ }],
        ['CLIP', { ...none, lambdaI }],
        ['all', {}],
      ])
    case 9:
      return viewsPlan(base, networks)
    case 10:
      return curves([
        ['latent', { space: 'latent' }],
        ['raw pixels', { space: 'pixels' }],
      ])
    case 11:
      return weightsPlan(base)
  }
}

function curves(settings: readonly (readonly [string, Partial<EditParameters>])[]): SweepPlan {
  return { settings: settings.map(([name, parameters]) => ({ name, parameters })), plot: 'curves', lines: [] }
}

/** Each network alone, two, those of the pack's default, and all. */
function viewsPlan(base: EditParameters, available: readonly string[]): SweepPlan {
  const sets = [...available.map((name) => [name]), available.slice(0, 2), base.networks, available]
  const unique = [...new Map(sets.map((set) => [set.join('+'), set]))]
  const counts = [0, 1, 8, 32]
  return {
    settings: unique.flatMap(([name, networks]) =>
      counts.map((views) => ({ name: `${name}, d = ${views}`, parameters: { networks, views } })),
    ),
    plot: 'lines',
    lines: unique.map(([name], i) => ({ name, settings: counts.map((_, j) => i * counts.length + j) })),
    categories: counts.map(String),
    axis: 'views per network and step, d',
  }
}

/** Each weight at some multiples of what it is, the others as they are. */
function weightsPlan(base: EditParameters): SweepPlan {
  const weights = { lambdaP: 'λp', lambdaZ: 'λz', lambdaI: 'λI', lambdaS: 'λS' } as const
  const settings: Setting[] = [{ name: 'default', parameters: {} }]
  const lines = (Object.entries(weights) as [keyof typeof weights, string][]).map(([parameter, symbol]) => {
    if (base[parameter] === 0) {
      throw invalidArgument(parameter, `${parameter} is 0, which has no multiples`, 'Give it another value.')
    }
    const indices = [0, 0.5, 1, 2, 4].map((factor) => {
      if (factor === 1) return 0
      const value = Number((factor * base[parameter]).toPrecision(6))
      return settings.push({ name: `${symbol} = ${value}`, parameters: { [parameter]: value } }) - 1
    })
    return { name: symbol, settings: indices }
  })
  return { settings, plot: 'lines', lines, dot: 0 }
}

/** Errors: those of making edits and of judging them; CANCELLED. */
export async function sweep(scene: Scene, options: SweepOptions): Promise<SettingResult[]> {
  const { editor, plan, parameters, resampling, onEdits } = options
  const at = [0, ...options.at]
  const jobs = parameters.map((of) => jobsOf(scene, of, at))
  const { store, signal } = scene
  const edits = await makeEdits(jobs.flat(), { editor, store, signal, onProgress: onEdits })

  const classes = [...scene.classes.keys()]
  const count = scene.queries.length
  const sets = resample(count, resampling)
  const results: SettingResult[] = []
  let first: Measured | undefined
  for (const [s, setting] of plan.settings.entries()) {
    const verdicts: Verdict[][] = at.map(() => [])
    for (const [i, input] of scene.inputs.entries()) {
      const done = s * count + i
      scene.onStage('edits judged', done, edits.length)
      await breathe(signal)
      const pictures = await editPictures(store, edits[done]!, jobs[s]![i]!)
      const judged = await judgePictures(scene, input, pictures, classes)
      for (const [step, verdict] of judged.entries()) verdicts[step]!.push(verdict)
    }
    const measured = verdicts.map((of) => measureAll(of, scene.targets, scene.statistics, sets))
    const last = measured.at(-1)!
    first ??= last
    results.push({
      setting,
      parameters: parameters[s]!,
      curve: at.map((steps, step) => ({ steps, estimates: estimates(measured[step]!) })),
      difference: differences(last, first),
      failed: edits.slice(s * count, (s + 1) * count).filter(({ failed }) => failed).length,
    })
  }
  return results
}

/** The plot of a sweep: CSFID, and accuracy, against LPIPS or against what the plan says. */
export function plotSweep(
  { plot, lines, categories, axis, dot }: SweepPlan,
  results: readonly SettingResult[],
): string {
  const after = (i: number) => results[i]!.curve.at(-1)!.estimates
  const panel = (measure: 'csfid' | 'accuracy', label: string): Panel => {
    const point = ({ lpips, ...others }: Estimates) => ({ x: lpips.value, y: others[measure].value })
    const series =
      plot === 'curves'
        ? results.map(({ setting, curve }) => ({ name: setting.name, points: curve.map((at) => point(at.estimates)) }))
        : lines.map(({ name, settings }) => ({
            name,
            points: settings.map((i, x) => (categories === undefined ? point(after(i)) : { ...point(after(i)), x })),
          }))
    return {
      x: axis ?? 'LPIPS',
      y: label,
      series,
      ...(categories === undefined ? {} : { categories }),
      ...(dot === undefined ? {} : { dot: point(after(dot)) }),
    }
  }
  return plotLines('CSFID and accuracy of the settings', [panel('csfid', 'CSFID'), panel('accuracy', 'accuracy in %')])
}
