// A page to look at an evaluation: Table 1, figure 6, and pictures of successes and failures, chosen by chance.
// One HTML file with everything in it.

import { encodePicture } from '../engine/encode.js'
import type { Picture } from '../engine/picture.js'
import { choose } from './bootstrap.js'
import type { Evaluation } from './evaluation.js'
import { escapeXml, plotBars } from './plot.js'
import type { Query } from './queries.js'
import { failureRate, formatTable } from './report.js'

export interface GalleryOptions {
  readonly title: string
  readonly queries: readonly Query[]
  readonly classes: ReadonlyMap<number, string>
  /** Successes to show, and as many failures. */
  readonly count: number
  readonly seed: number
}

const style = `
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em }
pre { overflow-x: auto; line-height: 1.3 }
figure { display: inline-block; margin: 0 8px 8px 0; width: 132px; vertical-align: top; font-size: 12px }
figure img { width: 128px; display: block }
figcaption { line-height: 1.3 }
.yes { color: #060 } .no { color: #900 }
h3 { font-size: 15px; margin: 1em 0 .3em }
small { color: #555; font-weight: normal }`

/** Figure 6 of the paper, as SVG. */
export function plotClusters({ clusters }: Evaluation): string {
  const layer = (name: string, of: (result: (typeof clusters)[number]) => number) => ({
    name,
    values: clusters.map(of),
  })
  return plotBars(
    'CSFID and failures by cluster',
    clusters.map(({ cluster }) => cluster),
    [
      {
        title: 'CSFID',
        layers: [
          layer('RETRIEVE', ({ retrieve }) => retrieve.csfid),
          layer('FlexIT', ({ edit }) => edit.csfid),
          layer('COPY', ({ copy }) => copy.csfid),
        ],
      },
      {
        title: 'Failures in %',
        layers: [
          layer('RETRIEVE', ({ retrieve }) => failureRate(retrieve)),
          layer('FlexIT', ({ edit }) => failureRate(edit)),
          layer('COPY', ({ copy }) => failureRate(copy)),
        ],
      },
    ],
  )
}

/** The page, as HTML. Errors: those of reading pictures from the store. */
export async function galleryPage(evaluation: Evaluation, options: GalleryOptions): Promise<string> {
  const { title, queries, count, seed } = options
  const last = evaluation.rows.at(-1)!
  const isSuccess = (i: number) => last.verdicts[i]!.predicted === queries[i]!.targetClass
  const all = queries.map((_, i) => i)
  const section = async (heading: string, indices: readonly number[]) => {
    const chosen = choose(indices, count, seed)
    const shown = []
    for (const i of chosen) shown.push(await showQuery(evaluation, options, i))
    return `<h2>${heading}: ${chosen.length} of ${indices.length}, chosen by chance</h2>${shown.join('\n')}`
  }
  const successes = await section('The judge names the target', all.filter(isSuccess))
  const failures = await section(
    'The judge names something else',
    all.filter((i) => !isSuccess(i)),
  )
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>${escapeXml(title)}</title><style>${style}</style>
<h1>${escapeXml(title)}</h1>
<p>${queries.length} queries; the judge chooses among ${options.classes.size} classes. 95 % intervals. CSFID and SFID are
Fréchet distances with diagonal covariance; μ: of the means alone, as the public release prints them.</p>
<pre>${escapeXml(formatTable(evaluation.rows))}</pre>
<h2>By cluster (figure 6)</h2>
${plotClusters(evaluation)}
${successes}
${failures}
</html>
`
}

async function showQuery(evaluation: Evaluation, { queries, classes }: GalleryOptions, i: number): Promise<string> {
  const { id, image, source, target, targetClass } = queries[i]!
  const pictures = await evaluation.pictures(i)
  const figures = []
  for (const [row, { name, verdicts }] of evaluation.rows.entries()) {
    const { predicted, lpips } = verdicts[i]!
    const label = classes.get(predicted) ?? String(predicted)
    const [kind, mark] = predicted === targetClass ? ['yes', '✓'] : ['no', '✗']
    const verdict = `<span class="${kind}">${mark} ${escapeXml(label)}</span>`
    const caption = `${name}<br>${verdict}, LPIPS ${(100 * lpips).toFixed(0)}`
    const img = `<img src="${await dataUrl(pictures[row]!)}" alt="${escapeXml(`${name}: ${source} → ${target}`)}">`
    figures.push(`<figure>${img}<figcaption>${caption}</figcaption></figure>`)
  }
  const heading = `${escapeXml(source)} → ${escapeXml(target)} <small>query ${id}, ${escapeXml(image)}</small>`
  return `<h3>${heading}</h3>${figures.join('')}`
}

async function dataUrl(picture: Picture): Promise<string> {
  const bytes = await encodePicture(picture, { format: 'webp' })
  return `data:image/webp;base64,${Buffer.from(bytes).toString('base64')}`
}
