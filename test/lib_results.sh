# Where the results of a training go, and what it left in its log: speed, accuracy, losses, the reason of a failure; sourced by lib.sh.
# shellcheck shell=bash disable=SC2154

# Sets output: test/output/ID for a training, ID/performance for a speed run, a folder within it for each further node
# (nodes may share a disk), and -2, -3 ... behind it while another launcher writes there.
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
    find "$output" -maxdepth 1 -type f ! -name .lock -delete # the results of the run before; folders are of others
    mkdir "$output/ckpt"
    log=$output/train_$ASCEND_DEVICE_ID.log
}

# Held by this script and the training that it starts, for as long as one of them lives. Systems without flock go without.
lock_output() {
    command -v flock >/dev/null || return 0
    exec {output_lock}>>"$output/.lock"
    flock --nonblock "$output_lock"
}

# lines_of KINDS: what the training logged about its progress. Names from a data set cannot begin such a line.
lines_of() {
    grep -E "^([0-9]{4}-[0-9: ,-]+ - [a-z]+ - INFO - )?($1)" "$log" || true
}

# values_after KEY: what follows "KEY: " in lines of standard input, one per line. data_time is not time, loss_cls is not loss.
values_after() {
    grep -oE "(^|[[:space:]])$1: [^,[:space:]]+" | sed 's/.*: //' || true
}

# The last total that the training logged; a log without one (plain mmcv) gives images per mean step time.
harvest_fps() {
    local fps
    fps=$(lines_of 'Epoch \[|Iter \[|Training done|FPS: ' | values_after FPS | tail -n 1)
    if [[ -z $fps ]]; then
        fps=$(lines_of 'Epoch \[|Iter \[' | values_after time | tail -n 30 | awk -v images="$((batch_size * world_size))" \
            '$1 > 0 { sum += $1; n++ } END { if (n) printf "%.2f", images * n / sum }')
    fi
    echo "${fps:-n/a}"
}

harvest_accuracy() {
    lines_of 'Epoch\(val\) \[' | values_after bbox_mAP |
        awk '/^-?[0-9.]+$/ && (!n++ || $1 > best + 0) { best = $1 } END { print n ? best : "n/a" }'
}

# Sets work_dir to the folder that the training chose; its first line says it.
find_work_dir() {
    local said
    said=$(sed -n '/^work dir: /{s///;s/ (--overwrite: .*//;p;q}' "$log")
    if [[ -n $said ]]; then work_dir=$said; fi
}

# One loss per training line; validation lines have no eta.
harvest_losses() {
    lines_of '(Epoch|Iter) \[.*eta:' | values_after loss
}

# The batch that was used, from the config that the training wrote; the one asked for when there is none.
real_batch() {
    "$PYTHON" - "$work_dir/config.py" 2>/dev/null <<'PY' || echo "${opt[batch_size]:-${default_batch:-1}}"
import runpy, sys

print(int(runpy.run_path(sys.argv[1])["train_dataloader"]["batch_size"]))
PY
}

# Prints the final block and writes the case log and the losses.
report() {
    local seconds=$1 batch_size fps accuracy network case_name losses training_time
    batch_size=$(real_batch)
    fps=$(harvest_fps)
    accuracy=$(harvest_accuracy)
    network=${stem%%_*}
    network=${network^^}
    case_name=${network}_bs${batch_size}_${RANK_SIZE}p_acc
    losses=$output/train_${case_name}_loss.txt
    harvest_losses >"$losses"
    training_time=$(awk -v b="$batch_size" -v f="$fps" 'BEGIN { if (f + 0 > 0) printf "%.2f", b * 1000 / f; else print "n/a" }')

    echo "------------------ Final result ------------------"
    echo "Final Performance images/sec : $fps"
    echo "Final Train Accuracy : $accuracy"
    echo "E2E Training Duration sec : $seconds"
    printf '%s = %s\n' Network "$network" RankSize "$RANK_SIZE" BatchSize "$batch_size" DeviceType "$(uname -m)" \
        CaseName "$case_name" ActualFPS "$fps" TrainingTime "$training_time" TrainAccuracy "$accuracy" \
        ActualLoss "$(tail -n 1 "$losses")" E2ETrainingTime "$seconds" >"$output/$case_name.log"
    echo "case log: $output/$case_name.log"
}

# torchrun exits with 1 whatever its rank did; the rank's own status stands in its summary (root cause last).
rank_status() {
    local code
    code=$(awk '/Root Cause/ { root = 1 } /exitcode *: *-?[0-9]+/ { sub(/.*exitcode *: */, ""); code = $1 + 0; if (root) exit }
        END { print code + 0 }' "$log")
    if ((code < 0)); then code=$((128 - code)); fi
    echo $((code > 0 ? code : $1))
}

# What the training said to the user: from "error: " to the next rank's copy of it or to torchrun's own lines.
user_error() {
    awk '/^error: / { if (found) exit; found = 1 } found && /^([WEI][0-9][0-9][0-9][0-9] |Traceback)/ { exit } found' "$log" | head -n 20
}

# explain_failure STATUS: the end of the log; with torchrun, whose epitaph is long, what the training itself said.
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
