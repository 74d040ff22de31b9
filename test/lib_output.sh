# The output folder of a launcher, the results in it, and the cause of a failure; sourced by lib.sh.
# shellcheck shell=bash disable=SC2154

# Sets output: test/output/ID for a training, ID/performance for a speed run, with a subfolder for each node but the
# first (nodes may share a disk), and with -2, -3, ... appended while another launcher writes there.
prepare_output() {
    local base=test/output/$ASCEND_DEVICE_ID${speed_run:+/performance} number=1
    if ((node_rank > 0)); then base+=/node$node_rank; fi
    output=$base
    mkdir -p "$output"
    until lock_output; do
        number=$((number + 1))
        output=$base-$number
        mkdir -p "$output"
    done
    if ((number > 1)); then echo "note: another training writes into $base; this one uses $output"; fi
    rm -rf "$output/ckpt"
    find "$output" -maxdepth 1 -type f ! -name .lock -delete # results of the previous run; folders belong to other runs
    mkdir "$output/ckpt"
    log=$output/train_$ASCEND_DEVICE_ID.log
}

# The lock is held until this script and the training that it starts have both ended. Systems without flock use no lock.
lock_output() {
    command -v flock >/dev/null || return 0
    exec {output_lock}>>"$output/.lock"
    flock --nonblock "$output_lock"
}

# Sets work_dir to the folder that the training chose, which it prints in its first line.
find_work_dir() {
    local said
    said=$(sed -n '/^work dir: /{s///;s/ (--overwrite: .*//;p;q}' "$log")
    if [[ -n $said ]]; then work_dir=$said; fi
}

# report SECONDS: prints the final block and writes the case log and the losses, from the JSON log in the work dir.
report() {
    local network=${stem%%_*} kind
    # The training prints its device before anything that a data set could say.
    kind=$(sed -n '/^device \(cpu\|cuda\|npu\): /{s/^device //;s/:.*//;p;q}' "$log")
    "$PYTHON" -m fcos_train summary "$work_dir" --format launcher --case-dir "$output" --network "${network^^}" \
        --rank-size "$RANK_SIZE" --batch-size "${opt[batch_size]:-${default_batch:-1}}" --seconds "$1" \
        --nodes "$nnodes" ${kind:+--device-kind "$kind"}
}

# torchrun exits with 1 whatever the status of its ranks; its error summary has that of the rank that failed first.
rank_status() {
    local code
    code=$(awk '/Root Cause/ { root = 1 } /exitcode *: *-?[0-9]+/ { sub(/.*exitcode *: */, ""); code = $1 + 0; if (root) exit }
        END { print code + 0 }' "$log")
    if ((code < 0)); then code=$((128 - code)); fi
    echo $((code > 0 ? code : $1))
}

# The error message of the training: from "error: " to the next rank's copy of it or to torchrun's own lines.
user_error() {
    awk '/^error: / { if (found) exit; found = 1 } found && /^([WEI][0-9][0-9][0-9][0-9] |Traceback)/ { exit } found' "$log" | head -n 20
}

# explain_failure STATUS: prints the end of the log; under torchrun, whose summary is long, the training's own message.
explain_failure() {
    local said=""
    if ((world_size > 1)); then said=$(user_error); fi
    if [[ -n $said ]]; then
        echo "error: the training failed with status $1; it said:" >&2
    else
        echo "error: the training failed with status $1; the last lines of its log:" >&2
        said=$(tail -n 20 "$log")
    fi
    printf '%s\n' "$said" | sed 's/^/    /' >&2
    if (($1 == 137)); then echo "It was killed: too little memory? Try a smaller --batch_size." >&2; fi
    echo "the whole log: $root/$log" >&2
}
