#!/usr/bin/env bash
# A run under Slurm that saves itself when it is preempted or its time is up, and goes on when it is started again:
#
#   sbatch --nodes 2 --gpus-per-node 8 --ntasks-per-node 8 launchers/slurm.sh --config real_1p3b [key=value ...]
#
# One task per GPU. 300 seconds before the time limit Slurm sends SIGUSR1 to this script, on preemption SIGTERM (then
# the cluster's GraceTime is what a save may take); both go to all ranks. They save, exit with code 75, and the job is
# put back into the queue. Any other exit code ends the job with that code.
#
#SBATCH --job-name=prealign
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"

if [ $# -eq 0 ]; then
    echo "error: launchers/slurm.sh: found no arguments; expected those of launchers/pretrain.py, as --config RECIPE" >&2
    exit 2
fi
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

# shellcheck disable=SC2016  # the variables are each task's own
task='export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=${SLURM_NTASKS_PER_NODE:-1}
exec "${PYTHON:-python}" "$@"'
signalled=0 code=0 step=
trap 'signalled=1; [ -z "$step" ] || kill -USR1 "$step"' USR1 TERM
# --kill-on-bad-exit: a rank that dies takes the others with it; --wait covers ranks that do not notice
srun --kill-on-bad-exit=1 --wait=60 bash -c "$task" rank launchers/pretrain.py "$@" &
step=$!
[ "$signalled" -eq 0 ] || kill -USR1 "$step"

# wait returns early when a signal arrives; srun passes it on to its tasks, and is waited for again
while :; do
    signalled=0
    wait "$step"
    status=$?
    [ "$status" -eq 127 ] || code=$status
    [ "$signalled" -eq 1 ] || break
done
if [ "$code" -eq 75 ]; then
    echo "stopped with a checkpoint; putting job $SLURM_JOB_ID back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
