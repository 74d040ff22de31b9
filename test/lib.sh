# Functions of the launchers: flags, checks, the command, the training process.
# Sourced by test/train_*.sh and scripts/*.sh.
#
# A launcher sets opt[nproc], default_batch and the like, then calls `launch "$@"`.
# shellcheck shell=bash

if ((BASH_VERSINFO[0] < 4)); then
    echo "error: the launchers need bash 4 or newer; this is $BASH_VERSION" >&2
    exit 2
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
caller_dir=$PWD
# shellcheck source=lib_network.sh
source "$root/test/lib_network.sh"
# shellcheck source=lib_output.sh
source "$root/test/lib_output.sh"

default_config=configs/fcos/fcos_r50_caffe_fpn_4x4_1x_coco.py
default_batch=""   # images per device when neither --batch_size nor --config is given
default_pretrained="" # --pretrained when the flag is not given; empty: the trainer's default
default_epochs=""  # epochs when neither --max_epochs nor --max_iters is given
train_defaults=()  # what a launcher adds to every training, e.g. --no-validate
speed_run=""       # non-empty: a measurement of speed; its work dir and results are kept apart from those of trainings
extra=()           # everything after --
positional=()
child=""

# The flags and their defaults; an empty value means "not given".
declare -A opt=(
    [data_path]="" [device_id]="" [nproc]=1 [config]="" [device]=auto [port]="" [batch_size]="" [learning_rate]=""
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
    for key in nproc nnodes batch_size max_iters max_epochs; do
        [[ -z ${opt[$key]:-} || ${opt[$key]} =~ ^[1-9][0-9]*$ ]] ||
            die "--$key=${opt[$key]} is not a positive whole number"
    done
    [[ ${opt[pretrained]:-none} =~ ^(require|auto|none)$ ]] ||
        die "--pretrained=${opt[pretrained]}: choose require, auto or none"
    for key in device_id node_rank port master_port seed; do
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

# Fails if the machine has too few devices. On a CPU ranks are processes, so any number is allowed.
check_devices() {
    device_kind=${opt[device]%%:*}
    [[ $device_kind == cpu ]] && return
    ((world_size == 1 && ASCEND_DEVICE_ID == 0)) && return
    local found count
    found=$("$PYTHON" - "${opt[device]}" <<'PY'
import sys
from mmcv_overrides.device import pick
from mmcv_overrides.errors import UserError

try:
    accelerator = pick(sys.argv[1])[0]
except UserError as error:
    sys.exit(f"error: {error}")
print(accelerator.name, accelerator.count())
PY
    ) || exit 2
    read -r device_kind count <<<"$(tail -n 1 <<<"$found")"
    [[ $device_kind == cpu ]] && return
    ((opt[nproc] <= count)) ||
        die "${opt[nproc]} $device_kind devices asked for, but this machine has $count; use --nproc=$count\
 (or --device=cpu, where ranks are processes)"
    ((ASCEND_DEVICE_ID < count)) ||
        die "device id $ASCEND_DEVICE_ID asked for, but this machine has $count $device_kind devices (0 to $((count - 1)))"
}

# ------------------------------------------------------------------------------------------- the training

# add FLAG VALUE: appends both to command, unless the value is empty.
add() {
    if [[ -n $2 ]]; then command+=("$1" "$2"); fi
}

# Adds the learning rate to the --cfg-options after --, if there are any, so that there is one such flag.
add_learning_rate() {
    [[ -n ${opt[learning_rate]} ]] || return 0
    local setting=optim_wrapper.optimizer.lr=${opt[learning_rate]} i
    command+=(--no-auto-lr)
    for ((i = 0; i < ${#extra[@]}; i++)); do
        [[ ${extra[i]} == --cfg-options ]] || continue
        extra=("${extra[@]:0:i+1}" "$setting" "${extra[@]:i+1}")
        return
    done
    command+=(--cfg-options "$setting")
}

# Without --work_dir the trainer chooses, so that --resume finds the newest of work_dirs/NAME, NAME-2, ...
# A speed run replaces the previous one, whose checkpoints are of no use.
add_work_dir() {
    if [[ -n ${opt[work_dir]} ]]; then
        command+=(--work-dir "$work_dir")
    elif [[ -n $speed_run ]]; then
        command+=(--work-dir "$work_dir")
        [[ " ${extra[*]-} " == *" --resume"* || " ${extra[*]-} " == *" --overwrite "* ]] || command+=(--overwrite)
    fi
}

# Sets command: plain python for one rank, torchrun for more.
build_command() {
    command=("$PYTHON")
    if ((world_size > 1)); then
        command+=(-m torch.distributed.run --nnodes "$nnodes" --node_rank "$node_rank"
            --nproc_per_node "${opt[nproc]}" --master_addr "$master_addr" --master_port "$port")
    fi
    command+=(-m fcos_train train "$config")
    if ((world_size > 1)); then command+=(--launcher pytorch); fi
    add_work_dir
    command+=(--device "${opt[device]}" --npu-ids "$ASCEND_DEVICE_ID" --seed "${opt[seed]}"
        --opt-level "${opt[opt_level]}" --loss-scale "${opt[loss_scale]}")
    add --data-path "$data_path"
    add --batch-size "${opt[batch_size]}"
    add --max-iters "${opt[max_iters]}"
    add --max-epochs "${opt[max_epochs]}"
    add --pretrained "${opt[pretrained]:-$default_pretrained}"
    command+=(${train_defaults[@]+"${train_defaults[@]}"}) # in bash < 4.4 an empty array counts as unbound
    add_learning_rate
    command+=(${extra[@]+"${extra[@]}"})
}

# All checks and settings before the start. Nothing is written before every check has passed.
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
    nnodes=${opt[nnodes]:-1} node_rank=${opt[node_rank]:-0} master_addr=${opt[master_addr]:-127.0.0.1}
    world_size=$((opt[nproc] * nnodes))
    export RANK_SIZE="${opt[nproc]}"
    cd "$root"
    npu_environment
    check_install
    check_devices
    if [[ -n ${opt[nnodes]+set} ]]; then cluster_environment; fi
    if ((world_size > 1)) || [[ -n ${opt[port]} ]]; then resolve_port; fi
    if ((world_size > 1)); then distributed_environment; fi
    build_command
}

# Links data/<basename> to the data, for other programs that read data/coco. The training itself uses --data-path.
link_data() {
    [[ -n $data_path && $(dirname "$data_path") != "$root/data" ]] || return 0
    if ! { mkdir -p data && ln -nsf "$data_path" ./data/; } 2>/dev/null; then
        echo "note: could not link $data_path into data/; continuing without the link"
    fi
}

# descendants PID: prints all processes that it started, directly or not (Linux). The ranks of torchrun are in sessions
# of their own, so a signal to its process group does not reach them.
descendants() {
    local kid
    cat "/proc/$1/task/"*/children 2>/dev/null | tr ' ' '\n' | while read -r kid; do
        if [[ -n $kid ]]; then
            echo "$kid"
            descendants "$kid"
        fi
    done
}

alive() {
    local pid
    for pid; do
        if kill -0 "$pid" 2>/dev/null && ! grep -qs '^State:[[:space:]]*[ZX]' "/proc/$pid/status"; then return 0; fi
    done
    return 1
}

# stop_training STATUS: stops the training and its descendants, then exits. torchrun needs up to 30 s to stop its ranks.
stop_training() {
    trap '' INT TERM HUP
    if [[ -n $child ]]; then
        local family i
        read -r -d '' -a family <<<"$child $(descendants "$child")" || true
        echo "stopping the training" >&2
        kill -TERM -- "-$child" 2>/dev/null || true
        for ((i = 0; i < 400; i++)); do
            alive "${family[@]}" || break
            sleep 0.1
        done
        kill -KILL "${family[@]}" 2>/dev/null || true
    fi
    exit "$1"
}

follows() {
    [[ ${FCOS_FOLLOW:-} == 1 ]] || [[ -t 1 && ${FCOS_FOLLOW:-} != 0 ]]
}

# run_training [LOG]: runs command in a process group of its own and returns its exit status.
run_training() {
    local status=0
    trap 'stop_training 130' INT
    trap 'stop_training 143' TERM
    trap 'stop_training 129' HUP
    set -m
    if [[ -z ${1:-} ]]; then
        "${command[@]}" </dev/null &
    elif follows; then
        # tee ignores SIGTERM and ends with its input, so that messages of a training that is stopping are kept.
        ("${command[@]}" 2>&1 | (trap '' TERM && exec tee "$1")) </dev/null &
    else
        "${command[@]}" >"$1" 2>&1 </dev/null &
    fi
    child=$!
    set +m
    wait "$child" || status=$?
    trap - INT TERM HUP
    kill -TERM -- "-$child" 2>/dev/null || true # processes that a crashed training left behind
    return "$status"
}

# launch "$@": what each test/train_*.sh runs.
launch() {
    local data_required=1 status=0 start
    prepare "$@"
    link_data
    prepare_output
    echo "training log: $root/$log"
    start=$(date +%s)
    run_training "$log" || status=$?
    if ((status != 0)); then
        if ((world_size > 1 && status == 1)); then status=$(rank_status "$status"); fi
        explain_failure "$status"
        exit "$status"
    fi
    if ((node_rank == 0)); then
        find_work_dir
        report $(($(date +%s) - start))
        echo "checkpoints: $work_dir"
    else
        echo "this node is done; speed and accuracy are in the results of node 0"
    fi
}

# launch_plain "$@": what each scripts/train_*.sh runs: the log goes to the terminal, and no case log is written.
launch_plain() {
    prepare "$@"
    link_data
    run_training || exit "$?"
}
