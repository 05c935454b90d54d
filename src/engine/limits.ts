// What the numbers of an edit may be: for whoever asks for one, and for the defaults of packs.

import { z } from 'zod'

/** Limits that hold everywhere; a server may set narrower ones. Threads: ONNX Runtime would start as many as it is told. */
export const limits = {
  steps: 10_000,
  views: 64,
  lambda: 1_000,
  learningRate: 10,
  textLength: 4_000,
  threads: 1024,
} as const

const lambda = z.number().min(0).max(limits.lambda)

/** The numbers of an edit that a pack may set; what it leaves out comes from the preset. */
export const numbersSchema = z.strictObject({
  steps: z.int().min(1).max(limits.steps),
  learningRate: z.number().positive().max(limits.learningRate),
  lambdaP: lambda,
  lambdaZ: lambda,
  lambdaS: lambda,
  lambdaI: lambda,
  views: z.int().min(0).max(limits.views),
})
