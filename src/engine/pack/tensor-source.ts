// What every weight file looks like to the networks: named tensors with shapes, read as float32.

export type StorageType = 'F64' | 'F32' | 'F16' | 'BF16' | 'I64' | 'I32' | 'I16' | 'I8' | 'U8' | 'BOOL'

export interface TensorInfo {
  readonly dtype: StorageType
  readonly shape: readonly number[]
}

/** An open weight file. Reads are synchronous: graphs are built in one go, by threads that have nothing else to do. */
export interface TensorSource {
  /** For messages. */
  readonly path: string
  readonly tensors: ReadonlyMap<string, TensorInfo>
  /** All values of a tensor in row-major order, converted to float32. Errors: NOT_FOUND, DATA_LOSS. */
  read(name: string): Float32Array
  /** Of the whole file: the one that `read` reads, whatever has its name by now. Errors: DATA_LOSS. */
  sha256(): Promise<string>
  close(): void
}
