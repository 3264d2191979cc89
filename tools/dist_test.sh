#!/usr/bin/env bash
# Test with several processes, as dist_train.sh trains:
#   bash tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [arguments of test.py]
set -euo pipefail
(($# >= 3)) || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
config=$1 checkpoint=$2 processes=$3
cores=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > processes ? cores / processes : 1))}

# On one machine any free port is used, so that several runs can share it.
free_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
[[ -n ${PORT:-} || ${NNODES:-1} != 1 ]] || PORT=$("${PYTHON:-python}" -c "$free_port")

exec "${PYTHON:-python}" -m torch.distributed.run --nproc-per-node="$processes" \
    --nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${PORT:-29500}" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
