// The library: edit pictures in this process, or on a server (alone: `flexit/client`, without the native packages).
// The method is FlexIT's (CVPR 2022, https://arxiv.org/abs/2203.04705).

export { Engine, type EditRequest, type EngineOptions } from './engine/engine.js'
export { Edit, type EditState, type StepLosses, type StepReport } from './engine/edit.js'
export { readEditFile, writeEditFile, type SavedEdit } from './engine/edit-file.js'
export { limits } from './engine/limits.js'
export { resolveParameters, specificationKey } from './engine/parameters.js'
export { type Picture, type ReadPictureOptions, readPicture } from './engine/picture.js'
export {
  type AnimationOptions,
  type EncodeOptions,
  type FilmstripOptions,
  type PictureFormat,
  animation,
  encodePicture,
  filmstrip,
  writePicture,
} from './engine/encode.js'
export { type Device, type DeviceKind, formatDevice, parseDevice } from './engine/runtime.js'
export { type StepSpecification, variableShape } from './engine/step-graph.js'
export type { Preset } from './engine/losses.js'
export { Pack } from './engine/pack/pack.js'
export type { Manifest } from './engine/pack/manifest.js'
export {
  type PackListing,
  type ResolvedPack,
  cacheFolder,
  listPacks,
  packsFolder,
  requirePack,
  resolvePack,
} from './engine/pack/locations.js'
export { type FileReport, type PullOptions, type PulledPack, pullPack, verifyPack } from './engine/pack/pull.js'
export { type PackImport, importPack } from './engine/pack/import.js'
export { type SynthesisOptions, synthesisePack } from './engine/pack/synth.js'
export * from './client/client.js'
