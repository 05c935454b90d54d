// Imported before ONNX Runtime, which from 1.29 on may report its use over the network unless this variable is set.
// https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md

process.env['ORT_DISABLE_TELEMETRY'] ??= '1'
