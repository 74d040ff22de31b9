# Sets the environment of an Ascend NPU: `source test/env_npu.sh`. Parts of CANN that are not installed are skipped.
# shellcheck shell=bash

_ascend_root=/usr/local/Ascend
_ascend_info=${ASCEND_INSTALL_INFO:-/etc/Ascend/ascend_cann_install.info}
if [[ -r $_ascend_info ]]; then
    _ascend_root=$(sed -n 's/^Install_Path=//Ip' "$_ascend_info" | head -n 1)
fi

_ascend_set_env=""
for _ascend_part in ascend-toolkit nnae; do
    if [[ -r $_ascend_root/$_ascend_part/set_env.sh ]]; then
        _ascend_set_env=$_ascend_root/$_ascend_part/set_env.sh
        break
    fi
done
if [[ -n $_ascend_set_env ]]; then
    # shellcheck source=/dev/null
    source "$_ascend_set_env"
    # torch_npu loads libraries of torch and Python; their folders come last, so that they replace no library of CANN.
    LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$("${PYTHON:-python3}" - <<'PY'
import importlib.util, pathlib, sysconfig

torch = importlib.util.find_spec("torch")
folders = [sysconfig.get_config_var("LIBDIR") or ""]
folders += [str(pathlib.Path(torch.origin).parent / "lib")] if torch else []
print(":".join(filter(None, folders)))
PY
    )
    export LD_LIBRARY_PATH
elif [[ -z ${ASCEND_TOOLKIT_HOME:-} ]]; then
    echo "env_npu: no CANN set_env.sh under $_ascend_root (ascend-toolkit or nnae); continuing without it"
fi

export ASCEND_SLOG_PRINT_TO_STDOUT="${ASCEND_SLOG_PRINT_TO_STDOUT:-0}" # log to files, not to the terminal
export ASCEND_GLOBAL_LOG_LEVEL="${ASCEND_GLOBAL_LOG_LEVEL:-3}"         # errors only
export ASCEND_GLOBAL_EVENT_ENABLE="${ASCEND_GLOBAL_EVENT_ENABLE:-0}"
export TASK_QUEUE_ENABLE="${TASK_QUEUE_ENABLE:-1}" # launch operators asynchronously
export PTCOPY_ENABLE="${PTCOPY_ENABLE:-1}"
export COMBINED_ENABLE="${COMBINED_ENABLE:-1}"
export DYNAMIC_OP="${DYNAMIC_OP:-ADD#MUL}"
export HCCL_WHITELIST_DISABLE="${HCCL_WHITELIST_DISABLE:-1}"

if command -v msnpureport >/dev/null 2>&1; then
    for _ascend_part in 0 1 2 3 4 5 6 7; do
        msnpureport -g error -d "$_ascend_part" >/dev/null 2>&1 || true
    done
    msnpureport -e disable >/dev/null 2>&1 || true
fi
unset _ascend_root _ascend_info _ascend_set_env _ascend_part
