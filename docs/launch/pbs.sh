#!/bin/bash
# Two nodes with twelve ranks each under PBS and PALS: qsub docs/launch/pbs.sh
#PBS -N dream-train
#PBS -l select=2
#PBS -l walltime=06:00:00
set -euo pipefail
cd "$PBS_O_WORKDIR"

# The program is built once with `cargo build --release --features mpi` on a file system that all nodes see, and is on PATH.
# The line below starts:
#   mpiexec -n 24 --ppn 12 --cpu-bind=numa dream-train --config configs/llama3_8b.toml
exec dream-train launch --ranks-per-node 12 --max-restarts 3 --idle-timeout 1800 --launcher-arg=--cpu-bind=numa --config configs/llama3_8b.toml
