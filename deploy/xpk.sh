#!/bin/bash
# Training on one or more TPU slices of a Google Kubernetes Engine cluster by XPK, which writes the JobSet itself
# (https://github.com/AI-Hypercomputer/xpk). Needs a cluster of `xpk cluster create`, the image of deploy/Dockerfile with
# EXTRA=tpu in a registry, and /shared, a file system that `xpk storage attach` has given to all pods.
#
#     bash deploy/xpk.sh --dry-run      shows the JobSet, and starts nothing
#     bash deploy/xpk.sh
#
# Change: cluster, project, zone and image; type and number of slices; what follows launch.py. data.batch_size has to divide
# among all chips.
#
# Watch:  xpk workload list --cluster=tpus; kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=cnnjax
# Stop:   xpk workload delete --cluster=tpus --workload=cnnjax      saves; the same line continues
#
# Checked in a dry run of XPK 1.16.0, whose wrapper of the command passes SIGTERM and exit code 75 on; not run on a TPU yet.

set -euo pipefail

# 75: told to stop, and all is saved; 1: another process is gone. XPK adds 42 and all from 127. Any other code ends the workload,
# such as 2: the log says what to put right.
exec xpk workload create "$@" --workload=cnnjax --cluster=tpus --project=my-project --zone=us-east5-b \
    --tpu-type=v6e-16 --num-slices=1 --docker-image=registry.example.com/cnnjax:tpu \
    --max-restarts=50 --restart-on-exit-codes=1,75 --termination-grace-period-seconds=180 \
    --command='exec python launch.py --config=configs/folder.py --config.data.path=/shared/photos --config.data.cache_dir=/shared/cache --config.data.batch_size=512 --config.train.precision=bfloat16 --workdir=/shared/runs/photos-tpu'
