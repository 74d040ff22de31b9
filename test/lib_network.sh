# Ports, addresses and the environment of distributed training; sourced by lib.sh.
# shellcheck shell=bash disable=SC2154

# port_is_free PORT: tries to bind it as torch's store does, so a socket in TIME_WAIT does not matter.
port_is_free() {
    "$PYTHON" - "$1" <<'PY'
import socket, sys

with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("", int(sys.argv[1])))
    except (OSError, OverflowError):
        sys.exit(1)
PY
}

free_port() {
    "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

# Sets port: the given one after a check, or any free one. Only the first node listens on it, so only that one checks.
resolve_port() {
    port=${opt[master_port]:-${opt[port]}}
    if ((nnodes > 1)); then port=${port:-23333}; else port=${port:-${PORT:-}}; fi
    if [[ -z $port ]]; then
        port=$(free_port)
    elif [[ ! $port =~ ^[1-9][0-9]*$ ]] || ((port > 65535)); then
        die "port $port is not in 1..65535"
    elif ((node_rank == 0)) && ! port_is_free "$port"; then
        die "port $port is in use (or not allowed) on this machine;\
 give another with --${opt[master_port]+master_}port=..."
    fi
}

# route_address HOST: prints the address from which this machine reaches HOST.
route_address() {
    "$PYTHON" - "$1" <<'PY' 2>/dev/null || die "no route from this machine to --master_addr=$1, or unknown name"
import socket, sys

kind, _, _, _, address = socket.getaddrinfo(sys.argv[1], 9, type=socket.SOCK_DGRAM)[0]
with socket.socket(kind, socket.SOCK_DGRAM) as probe:
    probe.connect(address)
    print(probe.getsockname()[0])
PY
}

# For several nodes: checks rank and addresses, and sets the address and interface that each library uses.
cluster_environment() {
    ((node_rank < nnodes)) || die "--node_rank=$node_rank, but the ranks of $nnodes nodes are 0 to $((nnodes - 1))"
    local address=${opt[local_addr]}
    if ((nnodes > 1)); then
        if is_loopback "$master_addr"; then
            is_loopback "$address" ||
                die "--nnodes=$nnodes, but --master_addr=$master_addr is only reachable from this machine;\
 give an address of node 0 that the other nodes can reach (to rehearse several nodes on this one machine, give\
 --local_addr=$master_addr too)"
            echo "note: all $nnodes nodes are on this machine (--local_addr=$address): a rehearsal, its speed means nothing"
        fi
        address=${address:-$(route_address "$master_addr")}
        echo "node $node_rank of $nnodes, this node $address, master $master_addr"
        export FCOS_LOCAL_ADDR="$address" # mmcv_overrides/network.py finds the interface that has it
    fi
    export HCCL_IF_IP="${address:-127.0.0.1}" WORLD_SIZE=$((nnodes * opt[nproc]))
    if [[ -n ${opt[ifname]} ]]; then
        export GLOO_SOCKET_IFNAME="${opt[ifname]}" NCCL_SOCKET_IFNAME="${opt[ifname]}" HCCL_SOCKET_IFNAME="${opt[ifname]}"
    fi
}

is_loopback() {
    [[ $1 == 127.* || $1 == localhost || $1 == ::1 ]]
}

# HCCL listens on 16 ports from a fixed base port, so two jobs on one host need two different ones.
hccl_environment() {
    export HCCL_CONNECT_TIMEOUT="${HCCL_CONNECT_TIMEOUT:-600}"
    ((nnodes == 1)) || return 0
    HCCL_IF_BASE_PORT=${HCCL_IF_BASE_PORT:-$("$PYTHON" - <<'PY'
import socket


def free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


print(next((b for b in range(60000, 65000, 16) if all(map(free, range(b, b + 16)))), 60000))
PY
    )}
    export HCCL_IF_BASE_PORT
}

distributed_environment() {
    if [[ $device_kind == npu ]]; then hccl_environment; fi
    # torchrun sets one thread per rank by default; on a CPU the ranks should share all cores.
    if [[ -z ${OMP_NUM_THREADS:-} && $device_kind != cuda && $device_kind != npu ]]; then
        OMP_NUM_THREADS=$(($(nproc 2>/dev/null || echo 1) / opt[nproc]))
        ((OMP_NUM_THREADS > 0)) || OMP_NUM_THREADS=1
        export OMP_NUM_THREADS
    fi
}
