// Plots as SVG: lines with marks in one or more panels beside each other, and bars by name.
// Colours that all eyes can tell apart: Okabe and Ito, https://jfly.uni-koeln.de/color/.

export interface Series {
  readonly name: string
  readonly points: readonly { readonly x: number; readonly y: number }[]
}

export interface Panel {
  readonly x: string
  readonly y: string
  readonly series: readonly Series[]
  /** What the x axis shows in place of numbers: x is an index. */
  readonly categories?: readonly string[]
  /** Drawn as a large dot in black: the defaults. */
  readonly dot?: { readonly x: number; readonly y: number }
}

export interface Bars {
  readonly title: string
  /** From the front to the back. */
  readonly layers: readonly { readonly name: string; readonly values: readonly number[] }[]
}

const colours = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000', '#8c564b', '#7f7f7f']
/** Of lines beyond the colours: each round of them has a stroke of its own. */
const dashes = ['', '7 4', '2 3', '10 3 2 3']
const shades = ['#00304f', '#0072b2', '#a9cfe8']
/** Of bars from the front to the back: those behind are seen where they are as long. */
const thicknesses = [4, 8, 12]
const panelSize = { width: 380, height: 320 }
const margin = { left: 60, right: 20, top: 20, bottom: 48 }
const lineHeight = 18

/** How a series is drawn. */
interface Pen {
  readonly colour: string
  /** Attributes of the line. */
  readonly stroke: string
}

/** Panels with one legend, of all their series. */
export function plotLines(title: string, panels: readonly Panel[]): string {
  const names = [...new Set(panels.flatMap(({ series }) => series.map(({ name }) => name)))]
  const pen = (name: string): Pen => {
    const i = names.indexOf(name)
    const colour = colours[i % colours.length]!
    const dash = dashes[Math.floor(i / colours.length) % dashes.length]!
    const dashed = dash === '' ? '' : ` stroke-dasharray="${dash}"`
    return { colour, stroke: `stroke="${colour}" stroke-width="2"${dashed}` }
  }
  const drawn = panels.map((panel, i) => group(i * panelSize.width, 0, drawPanel(panel, pen)))
  const left = panels.length * panelSize.width
  const legend = names.map((name, i) => {
    const y = margin.top + i * lineHeight
    return `<path d="M${left} ${y}h18" ${pen(name).stroke}/>${text(left + 24, y + 4, name)}`
  })
  const width = left + 44 + 7 * Math.max(0, ...names.map((name) => name.length))
  const height = Math.max(panelSize.height, 2 * margin.top + names.length * lineHeight)
  return document(title, { width, height }, [...drawn, ...legend])
}

/** A bar for each name in each of some plots beside each other; layers lie over each other. */
export function plotBars(title: string, names: readonly string[], plots: readonly Bars[]): string {
  const left = 20 + 7 * Math.max(...names.map((name) => name.length))
  const length = 300
  const height = 56 + names.length * lineHeight
  const labels = names.map((name, i) => text(left - 8, 52 + i * lineHeight, name, 'end'))
  const drawn = plots.map(({ title: heading, layers }, plot) => {
    const most = Math.max(1e-9, ...layers.flatMap(({ values }) => values))
    const legend = layers.map(({ name }, i) => {
      const x = i * 90
      return `<rect x="${x}" y="22" width="10" height="10" fill="${shades[i]!}"/>${text(x + 14, 31, name)}`
    })
    // The longer of two bars first, of equal ones that of the back, so that all are seen.
    const bars = names.flatMap((_, row) =>
      layers
        .map(({ values }, layer) => ({ value: Math.max(0, values[row]!), layer }))
        .sort((a, b) => b.value - a.value || b.layer - a.layer)
        .map(({ value, layer }) => {
          const width = number((length * value) / most)
          const thickness = thicknesses[layer]!
          const y = 48 - thickness / 2 + row * lineHeight
          return `<rect x="0" y="${y}" width="${width}" height="${thickness}" fill="${shades[layer]!}"/>`
        }),
    )
    const end = text(length, 14, `0 to ${tickLabel(most)}`, 'end')
    return group(left + plot * (length + 40), 0, [text(0, 14, heading), end, ...legend, ...bars].join(''))
  })
  return document(title, { width: left + plots.length * (length + 40), height }, [...labels, ...drawn])
}

function drawPanel({ x, y, series, categories, dot }: Panel, pen: (name: string) => Pen): string {
  const points = [...series.flatMap((one) => one.points), ...(dot === undefined ? [] : [dot])]
  const xTicks = categories?.map((_, i) => i) ?? ticks(points.map((point) => point.x))
  const yTicks = ticks(points.map((point) => point.y))
  const right = panelSize.width - margin.right
  const bottom = panelSize.height - margin.bottom
  const place = (value: number, along: readonly number[], from: number, to: number) => {
    const [low, high] = [along[0]!, along.at(-1)!]
    return number(from + ((value - low) / (high - low || 1)) * (to - from))
  }
  const px = (value: number) => place(value, xTicks, margin.left, right)
  const py = (value: number) => place(value, yTicks, bottom, margin.top)
  const grid = [
    ...yTicks.map((tick) => `<path d="M${margin.left} ${py(tick)}H${right}" stroke="#ddd"/>`),
    ...yTicks.map((tick) => text(margin.left - 6, Number(py(tick)) + 4, tickLabel(tick), 'end')),
    ...xTicks.map((tick) => text(px(tick), bottom + 18, categories?.[tick] ?? tickLabel(tick), 'middle')),
    `<path d="M${margin.left} ${margin.top}V${bottom}H${right}" fill="none" stroke="#000"/>`,
    text((margin.left + right) / 2, panelSize.height - 10, x, 'middle'),
    `<g transform="translate(14 ${(margin.top + bottom) / 2}) rotate(-90)">${text(0, 0, y, 'middle')}</g>`,
  ]
  const lines = series.map(({ name, points: of }) => {
    const shown = of.filter((point) => Number.isFinite(point.x) && Number.isFinite(point.y))
    const path = shown.map((point, i) => `${i === 0 ? 'M' : 'L'}${px(point.x)} ${py(point.y)}`).join('')
    const marks = shown.map((point) => `<circle cx="${px(point.x)}" cy="${py(point.y)}" r="3"/>`).join('')
    const { colour, stroke } = pen(name)
    return `<g fill="${colour}"><path d="${path}" fill="none" ${stroke}/>${marks}</g>`
  })
  const centre = dot === undefined ? '' : `<circle cx="${px(dot.x)}" cy="${py(dot.y)}" r="6"/>`
  return [...grid, ...lines, centre].join('')
}

/** Round numbers around the values, four to eight of them. */
function ticks(values: readonly number[]): number[] {
  const finite = values.filter(Number.isFinite)
  const low = Math.min(...finite, Infinity)
  const high = Math.max(...finite, -Infinity)
  if (low > high) return [0, 1]
  const span = high - low || Math.abs(high) || 1
  const power = 10 ** Math.floor(Math.log10(span / 4))
  const step = power * [1, 2, 5, 10].find((factor) => span / (power * factor) <= 6)!
  const first = Math.floor(low / step)
  const count = Math.max(1, Math.ceil(high / step) - first)
  return Array.from({ length: count + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)))
}

function tickLabel(value: number): string {
  return String(Number(value.toPrecision(3)))
}

function number(value: number): string {
  return value.toFixed(1)
}

function group(x: number, y: number, content: string): string {
  return `<g transform="translate(${x} ${y})">${content}</g>`
}

function text(x: number | string, y: number | string, content: string, anchor = 'start'): string {
  return `<text x="${x}" y="${y}" text-anchor="${anchor}">${escapeXml(content)}</text>`
}

/** A text as the content of an element or of a quoted attribute; what XML cannot hold is replaced. */
export function escapeXml(content: string): string {
  const entities: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }
  return content
    .replace(/[^\P{Cc}\t\n\r]|[\p{Cs}\uFFFE\uFFFF]/gu, '\uFFFD')
    .replace(/[&<>"]/g, (character) => entities[character]!)
}

function document(
  title: string,
  { width, height }: { readonly width: number; readonly height: number },
  content: readonly string[],
): string {
  const size = `width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"`
  const style = 'font-family="system-ui, sans-serif" font-size="12"'
  return `<svg xmlns="http://www.w3.org/2000/svg" role="img" ${size} ${style}>
<title>${escapeXml(title)}</title>
<rect width="100%" height="100%" fill="#fff"/>
${content.join('\n')}
</svg>
`
}
