#!/usr/bin/env bash
# Export a detector with a BN head to ONNX, caffe and ncnn, every file verified against PyTorch, and compare all of them.
#   bash scripts/export_onnx_caffe_ncnn.sh CONFIG CKPT OUT [update|test]
# Files that are there are kept. update: write all of them again; test: only compare the simplified ONNX file.
# Environment (default):
#   CASE        name of the files (that of CONFIG)
#   ONNX_DIR, CAFFE_DIR, NCNN_DIR   folders (OUT/onnx, OUT/caffe, OUT/ncnn)
#   HEIGHT, WIDTH   input size in px (800, 1088)
#   DATA_PATH   data set for the comparison of maps and the mAP (none: generated images, no mAP)
#   PYTHON      interpreter
set -euo pipefail
# shellcheck source=../test/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../test/lib.sh"

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi
(($# == 3 || $# == 4)) || die "give CONFIG CKPT OUT [update|test] (see --help)"
mode=${4:-}
[[ $mode =~ ^(update|test|)$ ]] || die "$mode: give update, test or nothing"
config=$(from_caller "$1")
if [[ ! -f $config ]]; then config=$root/$1; fi
[[ -f $config ]] || die "no config $1, neither from $caller_dir nor from $root"
checkpoint=$(from_caller "$2")
[[ -f $checkpoint ]] || die "no checkpoint $2"
out=$(from_caller "$3")
case=${CASE:-$(basename "$config" .py)}
onnx=$(from_caller "${ONNX_DIR:-$out/onnx}")/$case
caffe=$(from_caller "${CAFFE_DIR:-$out/caffe}")/$case
ncnn=$(from_caller "${NCNN_DIR:-$out/ncnn}")/$case
data=()
if [[ -n ${DATA_PATH:-} ]]; then
    data=(--data-path "$(from_caller "$DATA_PATH")")
    [[ -d ${data[1]} ]] || die "DATA_PATH=$DATA_PATH: no such folder"
fi

# make FILE... -- COMMAND...: runs the command, unless all files are there and stay.
make() {
    local file files=() status=0
    while [[ $1 != -- ]]; do
        files+=("$1")
        shift
    done
    shift
    if [[ $mode != update ]] && all_there "${files[@]}"; then
        echo "kept: ${files[0]}"
        if [[ ${files[0]} -ot $checkpoint ]]; then echo "note: it is older than $checkpoint; update writes it again"; fi
        return
    fi
    echo "== ${files[0]}"
    run "$@"
}

all_there() {
    local file
    for file in "$@"; do [[ -f $file ]] || return 1; done
}

# run ARGUMENT...: fcos-train; ends the script with its exit status if it fails.
run() {
    local status=0
    "$PYTHON" -m fcos_train "$@" || status=$?
    if ((status)); then
        echo "error: stopped, exit status $status of: fcos-train $*" >&2
        exit "$status"
    fi
}

# compare MODEL...: the table of these files.
compare() {
    run compare "$checkpoint" "$@" --config "$config" ${data[@]+"${data[@]}"}
}

pick_python
cd "$root"
if [[ $mode == test ]]; then
    compare "$onnx-update.onnx"
    exit 0
fi
"$PYTHON" -m fcos_train.cli.require --simplify caffe ncnn
mkdir -p "$(dirname "$onnx")" "$(dirname "$caffe")" "$(dirname "$ncnn")"
export=(export "$config" "$checkpoint" --shape "${HEIGHT:-800}" "${WIDTH:-1088}")
target=("${export[@]}" ${data[@]+"${data[@]}"} --target)

make "$onnx.onnx" "$onnx.json" -- "${export[@]}" --end adelaidet --opset 11 --output-file "$onnx.onnx"
make "$onnx-update.onnx" "$onnx-update.json" -- simplify "$onnx.onnx" "$onnx-update.onnx"
make "$caffe-update.prototxt" "$caffe-update.caffemodel" -- \
    "${target[@]}" caffe --output-file "$caffe-update.prototxt"
make "$ncnn-update.param" "$ncnn-update.bin" -- \
    "${target[@]}" ncnn --precision fp32 --output-file "$ncnn-update.param"
make "$ncnn-update-opt.param" "$ncnn-update-opt.bin" -- \
    "${target[@]}" ncnn --precision fp16 --output-file "$ncnn-update-opt.param"

echo "== comparison"
compare "$onnx.onnx" "$onnx-update.onnx" "$caffe-update.prototxt" "$ncnn-update.param" "$ncnn-update-opt.param"
