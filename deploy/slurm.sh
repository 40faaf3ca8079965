#!/bin/bash
# Training on several nodes under Slurm, in as many turns as the time limit and preemptions make of it. Submitted in the
# repository root, which all nodes have to see, as they do the data and --workdir:
#
#     sbatch deploy/slurm.sh --config=configs/folder.py --config.data.path=/shared/photos --workdir=/shared/runs/photos
#     sbatch --nodes=4 --time=2:00:00 deploy/slurm.sh ...     options before the script are Slurm's, after it launch.py's
#
# Change: the #SBATCH lines, and below them PATH. --config.data.batch_size has to divide among all GPUs. Decoded images go
# to ~/.cache/cnnjax; where home is slow, --config.data.cache_dir=/local/scratch gives each node its own.
#
# Watch:  squeue --me; tail -f cnnjax-JOBID.log
# Stop:   scancel JOBID                   saves, if that takes less than Slurm's KillWait, often 30 seconds, and ends
#         scancel --batch --signal=TERM JOBID && scancel --signal=TERM JOBID      takes the time that saving takes; the
#                                         first of the two tells this script not to start again
# Go on:  the same sbatch line again
#
# Checked with Slurm 22.05 on one machine that stands in for two nodes, without GPUs: time limit, preemption, requeue, both
# ways to stop, a lost process. Not run on a real cluster yet.

#SBATCH --job-name=cnnjax
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
# As many processes as GPUs. Not --gpus-per-task: each has to see all GPUs of its node, of which JAX takes the one that
# SLURM_LOCALID says.
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=4G
#SBATCH --time=24:00:00
# Five minutes to end a step and to save. Without "B:" it goes to the processes and not to this script.
#SBATCH --signal=TERM@300
# By Slurm itself, after the loss of a node or a preemption.
#SBATCH --requeue

set -euo pipefail

export PATH="$PWD/.venv/bin:$PATH" # of the python that has cnnjax; or `module load` and the like here
max_restarts=${MAX_RESTARTS:-50}   # a job that never gets on does not go round for ever
crash_seconds=600                  # what crashes sooner would crash again

# Slurm sends TERM to this script for an end that is meant: scancel, or the time limit itself.
stopped=""
trap 'stopped=yes' TERM

# --kill-on-bad-exit=0 and --wait=0, whatever the site's defaults: the first process to end must not take those along that
# are still saving. Who loses another one ends by itself within a minute.
# --cpus-per-task: srun does not take it over from sbatch.
status=0
srun --kill-on-bad-exit=0 --wait=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" python launch.py "$@" || status=$?

turn=${SLURM_RESTART_COUNT:-0}
say() { echo "slurm.sh: job $SLURM_JOB_ID, turn $((turn + 1)), $SECONDS s: $*"; }

case $status in
    0) say "done"; exit 0 ;;
    2) say "exit code 2: the message above says what to put right; not started again"; exit 2 ;;
    75 | 143) why="stopped by a signal" ;; # 143: before launch.py was listening
    *) why="lost a process or crashed (exit code $status)"
       if ((SECONDS < crash_seconds)); then
           say "$why within $crash_seconds s; not started again"
           exit "$status"
       fi ;;
esac
if [[ $stopped ]]; then
    say "$why, and Slurm ends the job; where it does not queue it again by itself, the same sbatch line continues"
elif ((turn >= max_restarts)); then
    say "$why, and it has been started again $turn times; \`MAX_RESTARTS=N sbatch ...\` allows more"
# Incomplete: never a job that has been cancelled meanwhile.
elif scontrol requeue Incomplete "$SLURM_JOB_ID"; then
    say "$why; back in the queue"
else
    say "$why, and Slurm does not take it back into the queue; the same sbatch line continues"
fi
exit "$status"
