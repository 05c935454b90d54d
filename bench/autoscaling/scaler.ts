// The scaler of deploy/k8s/components/autoscaling: KEDA's query, read from the manifest, and what the HorizontalPodAutoscaler
// makes of it. https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details

import { readFileSync } from 'node:fs'
import { parse } from 'yaml'

interface Policy {
  readonly type: 'Percent' | 'Pods'
  readonly value: number
  readonly periodSeconds: number
}

interface Direction {
  readonly stabilizationWindowSeconds: number
  readonly policies: readonly Policy[]
}

export interface ScalerSettings {
  /** Of the query's value, for each replica. */
  readonly target: number
  readonly least: number
  readonly most: number
  readonly scaleUp: Direction
  readonly scaleDown: Direction
}

/** The query that `wantedWork` computes; a manifest with another one is refused. */
const query =
  'sum(flexit_edits{namespace="flexit",state=~"pending|running"}) / ' +
  'clamp_min(avg(sum by (pod) (flexit_device_up{namespace="flexit"})), 1)'

/** The query's value: edits that wait or run, for each device of a replica. */
export function wantedWork(edits: number, devicesOfReplica: number): number {
  return edits / Math.max(devicesOfReplica, 1)
}

/** FLEXIT_MAX_WAITING_EDITS of the manifests. */
export function readMaxWaiting(file: string | URL): number {
  const found = /FLEXIT_MAX_WAITING_EDITS=(\d+)/.exec(readFileSync(file, 'utf8'))
  if (found === null) throw new Error('the manifests do not limit waiting edits')
  return Number(found[1])
}

interface ScaledObject {
  readonly spec: {
    readonly minReplicaCount: number
    readonly maxReplicaCount: number
    readonly advanced: {
      readonly horizontalPodAutoscalerConfig: {
        readonly behavior: { readonly scaleUp: Direction; readonly scaleDown: Direction }
      }
    }
    readonly triggers: readonly [{ readonly metadata: { readonly query: string; readonly threshold: string } }]
  }
}

/** Errors: where the manifest asks for something else than is computed here. */
export function readScaler(file: string | URL): ScalerSettings {
  const { spec } = parse(readFileSync(file, 'utf8')) as ScaledObject
  const { metadata } = spec.triggers[0]
  if (metadata.query !== query) throw new Error(`the scaler's query is another one: ${metadata.query}`)
  const { scaleUp, scaleDown } = spec.advanced.horizontalPodAutoscalerConfig.behavior
  return {
    target: Number(metadata.threshold),
    least: spec.minReplicaCount,
    most: spec.maxReplicaCount,
    scaleUp,
    scaleDown,
  }
}

/** Nothing is done about a deviation of a tenth. */
const tolerance = 0.1

/** Decides from time to time (every 15 s in Kubernetes) how many replicas there are to be. */
export class Scaler {
  readonly #settings: ScalerSettings
  #recommendations: { readonly atS: number; readonly replicas: number }[] = []
  #changes: { readonly atS: number; readonly by: number }[] = []

  constructor(settings: ScalerSettings) {
    this.#settings = settings
  }

  /** Of `replicas` with this much work in all, at a time in seconds. */
  decide(work: number, replicas: number, nowS: number): number {
    const { target, least, most, scaleUp, scaleDown } = this.#settings
    const ratio = work / (target * replicas)
    const wanted = Math.abs(ratio - 1) <= tolerance ? replicas : Math.ceil(work / target)
    const stable = this.#stabilise(Math.min(Math.max(wanted, least), most), replicas, nowS)
    const bound = Math.min(Math.max(this.#bound(stable, replicas, nowS), least), most)
    if (bound !== replicas) this.#changes.push({ atS: nowS, by: bound - replicas })
    const longest = Math.max(...[...scaleUp.policies, ...scaleDown.policies].map(({ periodSeconds }) => periodSeconds))
    this.#changes = this.#changes.filter(({ atS }) => atS > nowS - longest)
    return bound
  }

  /** No less than the most, and no more than the least, that was recommended within the windows. */
  #stabilise(wanted: number, replicas: number, nowS: number): number {
    const { scaleUp, scaleDown } = this.#settings
    const windows = [scaleUp.stabilizationWindowSeconds, scaleDown.stabilizationWindowSeconds] as const
    this.#recommendations = this.#recommendations.filter(({ atS }) => atS > nowS - Math.max(...windows))
    const within = (window: number) =>
      this.#recommendations.filter(({ atS }) => atS > nowS - window).map((one) => one.replicas)
    const up = Math.min(wanted, ...within(windows[0]))
    const down = Math.max(wanted, ...within(windows[1]))
    this.#recommendations.push({ atS: nowS, replicas: wanted })
    return Math.min(Math.max(replicas, up), down)
  }

  /** As far as the policies let it go at once; of several, the one that goes furthest. */
  #bound(wanted: number, replicas: number, nowS: number): number {
    if (wanted === replicas) return replicas
    const up = wanted > replicas
    const { policies } = up ? this.#settings.scaleUp : this.#settings.scaleDown
    const limits = policies.map(({ type, value, periodSeconds }) => {
      const since = this.#changes.filter(({ atS }) => atS > nowS - periodSeconds)
      const before = replicas - since.reduce((sum, { by }) => sum + by, 0)
      if (type === 'Pods') return up ? before + value : before - value
      return up ? Math.ceil(before * (1 + value / 100)) : Math.floor(before * (1 - value / 100))
    })
    if (up) return Math.min(wanted, Math.max(replicas, ...limits))
    return Math.max(wanted, Math.min(replicas, ...limits))
  }
}
