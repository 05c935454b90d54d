// Sessions on ONNX Runtime: the only file that imports it. https://onnxruntime.ai/docs/api/js/
// `run` and `create` block their thread although they return promises (onnxruntime issues 19611 and 26968).

import './no-telemetry.js'
import * as ort from 'onnxruntime-node'
import { FlexitError, invalidArgument } from './errors.js'
import { limits } from './limits.js'

/** The version of ONNX Runtime, on which the last bits of results depend. */
export const runtimeVersion: string = ort.env.versions.node ?? ort.env.versions.common

const deviceKinds = ['cpu', 'cuda', 'tensorrt', 'webgpu'] as const

export type DeviceKind = (typeof deviceKinds)[number]

/** Where a session runs: `cpu`, `cuda:0`. */
export interface Device {
  readonly kind: DeviceKind
  readonly index: number
}

/** Arrays as they cross into a session. */
export type TensorData = Float32Array | BigInt64Array | Uint8Array

export interface Tensor {
  readonly shape: readonly number[]
  readonly data: TensorData
}

export interface FloatTensor extends Tensor {
  readonly data: Float32Array
}

export interface SessionOptions {
  readonly device: Device
  /** Threads within one operation on the CPU, at most `limits.threads`; 0: one for each physical core. */
  readonly threads: number
}

/** `cpu`, `cpu:1`, `cuda:0`, `tensorrt:0`, `webgpu`. Errors: INVALID_ARGUMENT. */
export function parseDevice(text: string): Device {
  const match = /^(cpu|cuda|tensorrt|webgpu)(?::(\d{1,3}))?$/.exec(text)
  if (match === null) {
    throw invalidArgument('device', `there is no device "${text}"`, 'Use cpu, cuda:0, tensorrt:0 or webgpu.')
  }
  return { kind: match[1] as DeviceKind, index: Number(match[2] ?? 0) }
}

/** Check a device that may come from JavaScript. Errors: INVALID_ARGUMENT. */
export function checkDevice(device: Device): void {
  const { kind, index } = new Object(device) as Partial<Device>
  if (deviceKinds.some((known) => known === kind) && Number.isInteger(index) && index! >= 0) return
  const given = typeof device === 'string' ? device : 'cuda:0'
  throw invalidArgument('device', `${JSON.stringify(device)} is not a device`, `Use parseDevice('${given}').`)
}

export function formatDevice({ kind, index }: Device): string {
  return kind === 'cpu' || kind === 'webgpu' ? (index === 0 ? kind : `${kind}:${index}`) : `${kind}:${index}`
}

/** A model file that ONNX Runtime cannot load: cut off, or with its external data gone. */
export class BrokenModelError extends FlexitError {}

/** A model on a device. */
export class Session {
  readonly #session: ort.InferenceSession
  readonly #running = new Set<Promise<unknown>>()

  private constructor(session: ort.InferenceSession) {
    this.#session = session
  }

  /**
   * Load the model file `path` onto a device. Errors: FAILED_PRECONDITION where the device cannot be used here (never a
   * silent fall-back to another one), BrokenModelError where the file is not a valid model, INVALID_ARGUMENT (`threads`).
   */
  static async create(path: string, { device, threads }: SessionOptions): Promise<Session> {
    if (!Number.isInteger(threads) || threads < 0 || threads > limits.threads) {
      throw invalidArgument(
        'threads',
        `${threads} threads are not possible`,
        `Use a whole number up to ${limits.threads}.`,
      )
    }
    const { kind, index } = device
    const provider = kind === 'cpu' || kind === 'webgpu' ? kind : { name: kind, deviceId: index }
    try {
      const session = await ort.InferenceSession.create(path, {
        executionProviders: [provider],
        intraOpNumThreads: threads,
        interOpNumThreads: 1,
        graphOptimizationLevel: 'all',
        logSeverityLevel: 3,
        // Threads that spin while they wait win a little on an idle machine and lose most of its speed on a shared one.
        extra: { session: { intra_op: { allow_spinning: '0' } } },
      })
      return new Session(session)
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      if (kind !== 'cpu') {
        throw new FlexitError({
          code: 'FAILED_PRECONDITION',
          message: `the device ${formatDevice(device)} cannot be used here: ${reason}`,
          cure: 'Check the driver and the libraries of that device (README, "GPU"), or use --device cpu.',
          cause: error,
        })
      }
      throw new BrokenModelError({
        code: 'DATA_LOSS',
        message: `ONNX Runtime cannot load ${path}: ${reason}`,
        cure: 'Delete the cached graphs with `flexit cache clear` and try again.',
        cause: error,
      })
    }
  }

  /** Run the model once. Data of inputs is read in place; outputs are new arrays. */
  async run(inputs: Readonly<Record<string, Tensor>>): Promise<Record<string, Tensor>> {
    const feeds = Object.fromEntries(Object.entries(inputs).map(([name, tensor]) => [name, toOrt(tensor)]))
    const running = this.#session.run(feeds)
    this.#running.add(running)
    const results = await running.finally(() => this.#running.delete(running))
    return Object.fromEntries(
      Object.entries(results).map(([name, { data, dims }]) => [name, { data: data as TensorData, shape: dims }]),
    )
  }

  /** Wait for what runs, and free the device's memory. The session cannot be used afterwards. */
  async release(): Promise<void> {
    await Promise.allSettled(this.#running)
    await this.#session.release()
  }
}

function toOrt({ data, shape }: Tensor): ort.Tensor {
  if (data instanceof Float32Array) return new ort.Tensor('float32', data, shape)
  if (data instanceof BigInt64Array) return new ort.Tensor('int64', data, shape)
  return new ort.Tensor('uint8', data, shape)
}
