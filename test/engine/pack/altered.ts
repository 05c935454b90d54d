// Weight files that differ from those of the shipped pack in a few tensors.
// Written as safetensors, whatever they were.

import { writeFileSync } from 'node:fs'
import { openSafetensors, serialiseSafetensors, type TensorData } from '../../../src/engine/pack/safetensors.js'

/** A copy of a weight file with its tensors changed. */
export function altered(source: string, path: string, change: (tensors: Map<string, TensorData>) => void): string {
  const file = openSafetensors(source)
  const tensors = new Map<string, TensorData>()
  for (const [name, info] of file.tensors) tensors.set(name, { ...info, name, data: file.raw(name) })
  file.close()
  change(tensors)
  writeFileSync(path, Buffer.concat(serialiseSafetensors([...tensors.values()])))
  return path
}

export function zeros(name: string, shape: number[]): TensorData {
  return { name, dtype: 'F32', shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) }
}
