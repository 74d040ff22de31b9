#!/usr/bin/env bash
# Sets CANN's environment, then runs fcos-train with the arguments of the container.
set -eo pipefail
for file in "$ASCEND_TOOLKIT_HOME/set_env.sh" "$ASCEND_TOOLKIT_HOME/../set_env.sh"; do
    if [[ -f $file ]]; then
        # shellcheck source=/dev/null
        source "$file"
        break
    fi
done
exec fcos-train "$@"
