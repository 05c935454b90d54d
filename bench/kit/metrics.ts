// The live metrics of a server, as numbers.
// The text format: https://prometheus.io/docs/instrumenting/exposition_formats/

export class Metrics {
  readonly #samples: readonly { readonly name: string; readonly labels: string; readonly value: number }[]

  constructor(text: string) {
    this.#samples = text.split('\n').flatMap((line) => {
      const [, name, labels = '', value] = /^([\w:]+)(\{.*\})? (\S+)/.exec(line) ?? []
      return name === undefined ? [] : [{ name, labels, value: Number(value) }]
    })
  }

  static async read(port: number): Promise<Metrics> {
    const answer = await fetch(`http://127.0.0.1:${port}/metrics`)
    return new Metrics(await answer.text())
  }

  /** Over all samples of `name` whose labels contain `label` (`outcome="failed"`). */
  sum(name: string, label = ''): number {
    const own = this.#samples.filter((sample) => sample.name === name && sample.labels.includes(label))
    return own.reduce((sum, { value }) => sum + value, 0)
  }

  /** The least bucket of a histogram, over all labels, that has `part` of its observations; NaN where it has none. */
  bucket(name: string, part: number): number {
    const counts = new Map<number, number>()
    for (const { name: own, labels, value } of this.#samples) {
      if (own !== `${name}_bucket`) continue
      const bound = Number(/le="([^"]+)"/.exec(labels)![1]!.replace('+Inf', 'Infinity'))
      counts.set(bound, (counts.get(bound) ?? 0) + value)
    }
    const all = this.sum(`${name}_count`)
    const bounds = [...counts].sort(([a], [b]) => a - b)
    return all === 0 ? NaN : (bounds.find(([, count]) => count >= part * all)?.[0] ?? NaN)
  }
}
