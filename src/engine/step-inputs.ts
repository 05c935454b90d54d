// The inputs of a step's graph for a batch of edits (step-graph.ts), and of the views that other graphs take.

import type { Edit, NetworkEmbeddings } from './edit.js'
import type { Pack } from './pack/pack.js'
import type { EditParameters } from './parameters.js'
import type { Tensor } from './runtime.js'
import { type StepSpecification, names, variableShape } from './step-graph.js'
import { type ViewSample, centreView, sampleView, viewInputNames } from './views.js'

type Inputs = Readonly<Record<string, Tensor>>

/** Constant inputs of a batch; they may be as large as all its edits, which they must not keep alive. */
interface Batch {
  readonly edits: readonly WeakRef<Edit>[]
  readonly inputs: Inputs
}

export class StepInputs {
  readonly #pack: Pack
  /** The last batch alone, under its first edit. */
  #last = new WeakMap<Edit, Batch>()

  constructor(pack: Pack) {
    this.#pack = pack
  }

  /** `edits`: at least one, all of `specification`. Arrays of an edit are shared where nothing has to be put together. */
  of(edits: readonly Edit[], specification: StepSpecification): Record<string, Tensor> {
    const inputs: Record<string, Tensor> = { ...this.#constant(edits, specification) }
    const variable = variableShape(this.#pack, specification.space)
    inputs['z'] = stack(
      edits.map((edit) => edit.z),
      variable,
    )
    for (const name of specification.networks) {
      const views = edits.map((edit) => this.#views(edit, name))
      Object.assign(inputs, viewInputs(name, views, specification.views > 0))
    }
    return inputs
  }

  /** Keep nothing of the last batch. */
  forget(): void {
    this.#last = new WeakMap()
  }

  /** The inputs that stay the same as long as a batch has the same edits; those of the last batch are kept. */
  #constant(edits: readonly Edit[], specification: StepSpecification): Inputs {
    const [first] = edits
    const last = this.#last.get(first!)
    if (last?.edits.length === edits.length && edits.every((edit, i) => edit === last.edits[i]!.deref())) {
      return last.inputs
    }
    const inputs = this.#constantInputs(edits, specification)
    this.forget()
    this.#last.set(first!, { edits: edits.map((edit) => new WeakRef(edit)), inputs })
    return inputs
  }

  #constantInputs(edits: readonly Edit[], specification: StepSpecification): Inputs {
    const [first] = edits
    const inputs: Record<string, Tensor> = {
      z0: stack(
        edits.map((edit) => edit.constants.z0),
        variableShape(this.#pack, specification.space),
      ),
      learning_rate: scalars(edits, (p) => p.learningRate),
    }
    if (specification.latent) inputs['lambda_z'] = scalars(edits, (p) => p.lambdaZ)
    if (specification.perceptual) {
      inputs['lambda_p'] = scalars(edits, (p) => p.lambdaP)
      first!.constants.features.forEach(({ shape }, tap) => {
        inputs[names.feature(tap)] = stack(
          edits.map((edit) => edit.constants.features[tap]!.data),
          shape.slice(1),
        )
      })
    }
    for (const name of specification.networks) {
      const of = (part: keyof NetworkEmbeddings) => {
        const rows = edits.map((edit) => edit.constants.embeddings.get(name)![part])
        return stack(rows, [rows[0]!.length])
      }
      inputs[names.target(name)] = of('target')
      inputs[names.sourceText(name)] = of('sourceText')
      inputs[names.targetText(name)] = of('targetText')
    }
    return inputs
  }

  #views(edit: Edit, name: string): ViewSample[] {
    const { index, config } = this.#pack.clip(name)
    const { size } = this.#pack.manifest.image
    const { seed, views } = edit.parameters
    if (views === 0) return [centreView(size, size, config.imageResolution)]
    return Array.from({ length: views }, (_, view) =>
      sampleView({ seed, step: edit.step, network: index, view }, size, size, config.imageResolution),
    )
  }
}

/** Arrays of equal shape as a batch; a batch of one is not copied. */
function stack(rows: readonly Float32Array[], shape: readonly number[]): Tensor {
  const [first] = rows
  if (rows.length === 1) return { shape: [1, ...shape], data: first! }
  const data = new Float32Array(rows.length * first!.length)
  rows.forEach((row, i) => data.set(row, i * row.length))
  return { shape: [rows.length, ...shape], data }
}

function scalars(edits: readonly Edit[], of: (parameters: EditParameters) => number): Tensor {
  return { shape: [edits.length], data: Float32Array.from(edits, (edit) => of(edit.parameters)) }
}

/** The inputs of `views` (views.ts) for the views of each edit. */
export function viewInputs(
  network: string,
  samples: readonly (readonly ViewSample[])[],
  rotate: boolean,
): Record<string, Tensor> {
  const input = viewInputNames(network)
  const count = samples[0]!.length
  const flat = samples.flat()
  const size = flat[0]!.y.length
  const of = (row: (view: ViewSample) => ArrayLike<number>, length: number): Tensor => {
    const data = new Float32Array(flat.length * length)
    flat.forEach((view, i) => data.set(row(view), i * length))
    return { shape: [samples.length, count, length], data }
  }
  return {
    [input.y]: of((view) => view.y, size),
    [input.x]: of((view) => view.x, size),
    ...(rotate ? { [input.shear]: of((view) => view.shear, 2) } : {}),
  }
}
