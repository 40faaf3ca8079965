#!/bin/bash
# A cross-validation under Slurm, a job for each fold. Submitted in the repository root, which all nodes have to see, as they do
# the data and --workdir. The array has as many jobs as there are networks, split.folds times split.repeats, from 0:
#
#     sbatch --array=0-4 deploy/slurm-folds.sh --config=configs/folder.py --config.data.path=/shared/photos \
#         --config.split.folds=5 --workdir=/shared/runs/photos-folds
#
# The folds come from split.seed alone, so that every job makes the same ones. The last job to end puts all predictions together;
# where two end at once, the same line without --array and --fold does: `python launch.py --mode=crossvalidate ...`. Decode the
# images once before, with --mode=explore, or each job does.
#
# Change: the #SBATCH lines, and below them PATH.
#
# Watch:  squeue --me; tail -f cnnjax-folds-JOBID_FOLD.log
# Stop:   scancel JOBID           saves, if that takes less than Slurm's KillWait, often 30 seconds, and ends
# Go on:  the same sbatch line again: what is done is not trained again
#
# Checked with stand-ins for Slurm's commands. Not run on a real cluster yet.

#SBATCH --job-name=cnnjax-folds
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=4G
#SBATCH --time=12:00:00
# Five minutes to end a step and to save. Without "B:" it goes to the process and not to this script.
#SBATCH --signal=TERM@300
#SBATCH --requeue

set -euo pipefail

export PATH="$PWD/.venv/bin:$PATH" # of the python that has cnnjax; or `module load` and the like here

if [[ -z ${SLURM_ARRAY_TASK_ID:-} ]]; then
    echo "slurm-folds.sh: without --array there is no fold to train; for 5 folds: sbatch --array=0-4 deploy/slurm-folds.sh ..." >&2
    exit 2
fi

# Slurm sends TERM to this script for an end that is meant: scancel, or the time limit itself.
stopped=""
trap 'stopped=yes' TERM

# --cpus-per-task: srun does not take it over from sbatch.
status=0
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" python launch.py --mode=crossvalidate --fold="$SLURM_ARRAY_TASK_ID" "$@" || status=$?

# 75: stopped by a signal, all saved. The job of one fold alone goes back into the queue, and continues.
if ((status == 75)) && [[ ! $stopped ]] && ((${SLURM_RESTART_COUNT:-0} < ${MAX_RESTARTS:-50})); then
    scontrol requeue Incomplete "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" || true
fi
exit "$status"
