# Functions of the launchers: flags, paths and the environment of the device; sourced by test/train_*.sh and scripts/*.sh.
#
# A launcher sets opt[nproc], default_batch and the like, then calls `launch "$@"`, which hands all of that to
# fcos_train/launch/recipe.py: that one checks devices and ports, trains, and writes the results.
# shellcheck shell=bash

if ((BASH_VERSINFO[0] < 4)); then
    echo "error: the launchers need bash 4 or newer; this is $BASH_VERSION" >&2
    exit 2
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
caller_dir=$PWD

default_config=configs/fcos/fcos_r50_caffe_fpn_4x4_1x_coco.py
default_batch=""   # images per device when neither --batch_size nor --config is given
default_pretrained="" # --pretrained when the flag is not given; empty: the trainer's default
default_epochs=""  # epochs when neither --max_epochs nor --max_iters is given
train_defaults=()  # what a launcher adds to every training, e.g. --no-validate
speed_run=""       # non-empty: a measurement of speed; its work dir and results are kept apart from those of trainings
extra=()           # everything after --
positional=()

# The flags and their defaults; an empty value means "not given".
declare -A opt=(
    [data_path]="" [device_id]="" [nproc]=1 [config]="" [device]=auto [port]="" [batch_size]="" [learning_rate]=""
    [max_restarts]="" [dist_timeout]="" [rendezvous_timeout]=""
    [max_iters]="" [max_epochs]="" [work_dir]="" [opt_level]=O1 [loss_scale]=32.0 [seed]=0 [pretrained]=""
)

die() {
    echo "error: $1" >&2
    exit 2
}

# ---------------------------------------------------------------------------------------------- flags

usage() {
    local key
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    echo "Flags (--key=value; everything after -- is passed to fcos-train unchanged):"
    for key in $(printf '%s\n' "${!opt[@]}" | sort); do
        echo "  --$key=${opt[$key]:+        (default ${opt[$key]})}"
    done
    echo "Environment: ASCEND_DEVICE_ID, PORT, PYTHON, FCOS_FOLLOW=1 (also print the log while it is written; 0: never)"
}

# Reads the command line into opt, positional and extra. The keys of opt are the accepted flags.
parse_flags() {
    local key
    while (($#)); do
        case $1 in
        --)
            extra=("${@:2}")
            return ;;
        -h | --help)
            usage
            exit 0 ;;
        --?*)
            key=${1%%=*}
            key=${key#--}
            key=${key//-/_}
            [[ -n ${opt[$key]+known} ]] || unknown_flag "$key"
            if [[ $1 == *=* ]]; then
                opt[$key]=${1#*=}
            else
                (($# > 1)) && [[ $2 != --* ]] || die "--$key needs a value: --$key=..."
                opt[$key]=$2
                shift
            fi
            shift ;;
        *)
            positional+=("$1")
            shift ;;
        esac
    done
}

unknown_flag() {
    local near
    near=$("$PYTHON" -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1], sys.argv[2:], 1))' \
        "$1" "${!opt[@]}" 2>/dev/null) || near=""
    die "unknown flag --$1${near:+; did you mean --$near?} (--help lists the flags, -- hands the rest to fcos-train)"
}

check_numbers() {
    local key
    for key in nproc batch_size max_iters max_epochs; do
        [[ -z ${opt[$key]:-} || ${opt[$key]} =~ ^[1-9][0-9]*$ ]] ||
            die "--$key=${opt[$key]} is not a positive whole number"
    done
    for key in dist_timeout rendezvous_timeout; do
        [[ -z ${opt[$key]:-} || ${opt[$key]} =~ ^[1-9][0-9]*[smhd]?$ ]] ||
            die "--$key=${opt[$key]} is not a time such as 90, 90s or 10m"
    done
    [[ ${opt[nnodes]:-1} =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] ||
        die "--nnodes=${opt[nnodes]} is not a positive whole number, or MIN:MAX"
    [[ ${opt[nnodes]:-} != *:* ]] || ((${opt[nnodes]%%:*} <= ${opt[nnodes]##*:})) ||
        die "--nnodes=${opt[nnodes]}: MIN is above MAX"
    [[ ${opt[pretrained]:-none} =~ ^(require|auto|none)$ ]] ||
        die "--pretrained=${opt[pretrained]}: choose require, auto or none"
    for key in device_id node_rank port master_port seed max_restarts; do
        [[ -z ${opt[$key]:-} || ${opt[$key]} =~ ^(0|[1-9][0-9]*)$ ]] || die "--$key=${opt[$key]} is not a whole number"
    done
}

# ------------------------------------------------------------------------------- paths, Python, devices

# Sets PYTHON, unless it is set: the active environment's Python, or that of .venv, which scripts/quickstart.sh creates.
pick_python() {
    if [[ -z ${PYTHON:-} ]]; then
        PYTHON=python3
        if [[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -x $root/.venv/bin/python ]]; then
            PYTHON=$root/.venv/bin/python
            echo "python: .venv/bin/python"
        fi
    fi
    command -v "$PYTHON" >/dev/null || die "$PYTHON not found; bash scripts/quickstart.sh installs everything"
}

# from_caller PATH: prints it as an absolute path; a relative one starts at the caller's current folder.
from_caller() {
    if [[ $1 == /* ]]; then echo "$1"; else echo "${caller_dir%/}/$1"; fi
}

# Sets data_path with symbolic links resolved, so that the link that link_data creates never points to itself.
resolve_data() {
    data_path=""
    [[ -n ${opt[data_path]} ]] || return 0
    local path
    path=$(from_caller "${opt[data_path]}")
    [[ -d $path ]] || die "--data_path=${opt[data_path]}: no such folder ($path)"
    data_path=$(cd "$path" && pwd -P)
}

require_data() {
    [[ -n ${opt[data_path]} ]] && return
    echo '[Error] para "data_path" must be confing'
    echo "Give the folder of the data set, in COCO or VOC layout: bash ${0} --data_path=/path/to/coco"
    exit 1
}

# Sets config, stem and work_dir. A config is a file (relative to the caller's folder or to the root) or mmdet::name.
resolve_config() {
    config=${opt[config]:-$default_config}
    if [[ -n ${opt[config]} && $config != *::* && -f $(from_caller "$config") ]]; then
        config=$(from_caller "$config")
    elif [[ $config == *.py && $config != *::* && ! -f $root/$config ]]; then
        die "--config=$config: no such file, neither from $caller_dir nor from $root"
    fi
    stem=$(basename "${config##*::}" .py)
    work_dir=$root/work_dirs/${speed_run:+performance/}$stem
    if [[ -n ${opt[work_dir]} ]]; then work_dir=$(from_caller "${opt[work_dir]}"); fi
}

# Sets the launcher's default batch size and epochs. A config given by --config keeps its own batch size.
apply_defaults() {
    if [[ -z ${opt[batch_size]} && -z ${opt[config]} ]]; then opt[batch_size]=$default_batch; fi
    if [[ -z ${opt[max_epochs]} && -z ${opt[max_iters]} ]]; then opt[max_epochs]=$default_epochs; fi
}

# ASCEND_DEVICE_ID takes precedence over --device_id, as in the original recipes; it also names the output folder.
resolve_device_id() {
    ASCEND_DEVICE_ID=${ASCEND_DEVICE_ID:-${opt[device_id]:-0}}
    export ASCEND_DEVICE_ID
    [[ $ASCEND_DEVICE_ID =~ ^(0|[1-9][0-9]*)$ ]] || die "ASCEND_DEVICE_ID=$ASCEND_DEVICE_ID is not a whole number"
    echo "device id is $ASCEND_DEVICE_ID"
}

npu_environment() {
    [[ ${etp_running_flag:-} == true || ${opt[device]} == cpu || ${opt[device]} == cuda ]] && return
    local info=${ASCEND_INSTALL_INFO:-/etc/Ascend/ascend_cann_install.info}
    [[ ${opt[device]} == npu* || -e $info || -d /usr/local/Ascend ]] || return 0
    set +eu # CANN's scripts read variables that may be unset
    # shellcheck source=env_npu.sh
    source "$root/test/env_npu.sh"
    set -eu
}

check_install() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$("$PYTHON" --version 2>&1) is too old: FCOS-Train needs Python 3.11 or newer; activate an environment that has it,\
 or name it with PYTHON=/path/to/python"
    "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("torch", "mmengine"))))' ||
        die "torch or mmengine is missing in $("$PYTHON" -c 'import sys; print(sys.executable)');\
 bash scripts/quickstart.sh installs them (or activate the environment that has them)"
}

# ---------------------------------------------------------------------------------------------- the start

# add FLAG VALUE: appends both to command, unless the value is empty.
add() {
    if [[ -n $2 ]]; then command+=("$1" "$2"); fi
}

# All that bash has to do before the start. Nothing is written here.
prepare() {
    pick_python
    parse_flags "$@"
    ((${#positional[@]} == 0)) || die "unexpected '${positional[0]}'; flags are --key=value (--help lists them)"
    [[ -z ${data_required:-} ]] || require_data
    check_numbers
    resolve_data
    resolve_config
    apply_defaults
    resolve_device_id
    export RANK_SIZE="${opt[nproc]}"
    cd "$root"
    npu_environment
    check_install
}

# start [KEY=VALUE ...]: replaces this process by the Python part of the launchers.
start() {
    local key settings=("$@")
    opt+=([chosen_work_dir]="${opt[work_dir]}" [config]="$config" [work_dir]="$work_dir" [data_path]="$data_path"
        [device_id]="$ASCEND_DEVICE_ID")
    for key in "${!opt[@]}"; do settings+=("$key=${opt[$key]}"); done
    exec "$PYTHON" -m fcos_train.launch.recipe "${settings[@]}" "stem=$stem" "speed_run=$speed_run" \
        "default_batch=$default_batch" "default_pretrained=$default_pretrained" "train_defaults=${train_defaults[*]-}" \
        -- ${extra[@]+"${extra[@]}"} # in bash < 4.4 an empty array counts as unbound
}

# launch "$@": what each test/train_*.sh runs.
launch() {
    local data_required=1
    prepare "$@"
    start
}

# launch_plain "$@": what each scripts/train_*.sh runs: the log goes to the terminal, and no case log is written.
launch_plain() {
    prepare "$@"
    start plain=1
}
