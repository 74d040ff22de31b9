#!/usr/bin/env bash
# As export_onnx_caffe_ncnn.sh, with the input size of FCOS-RT: 640 x 768 (height x width). HEIGHT and WIDTH change it.
#   bash scripts/export_onnx_caffe_ncnn_rt.sh CONFIG CKPT OUT [update|test]
set -euo pipefail
HEIGHT=${HEIGHT:-640} WIDTH=${WIDTH:-768} exec bash "$(dirname "${BASH_SOURCE[0]}")/export_onnx_caffe_ncnn.sh" "$@"
