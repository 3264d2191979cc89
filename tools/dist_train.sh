#!/usr/bin/env bash
# Train with several processes on one or more machines, with GPUs (nccl) or without (gloo):
#   bash tools/dist_train.sh CONFIG PROCESSES [arguments of train.py]
# With several machines, on each:
#   NNODES=2 NODE_RANK=0|1 MASTER_ADDR=<the first one> PORT=29500 bash tools/dist_train.sh …
set -euo pipefail
(($# >= 2)) || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
config=$1 processes=$2
cores=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > processes ? cores / processes : 1))}

# Signals that torchrun passes on to its processes. Without this, SIGUSR1, which Slurm sends before
# a time limit, would kill it.
export PET_SIGNALS_TO_HANDLE=${PET_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1}
export TORCHELASTIC_SIGNALS_TO_HANDLE=$PET_SIGNALS_TO_HANDLE  # its name before torch 2.9

# On one machine any free port is used, so that several runs can share it.
free_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
[[ -n ${PORT:-} || ${NNODES:-1} != 1 ]] || PORT=$("${PYTHON:-python}" -c "$free_port")

exec "${PYTHON:-python}" -m torch.distributed.run --nproc-per-node="$processes" \
    --nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${PORT:-29500}" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}"
