#!/bin/bash
# Eight workers as a Slurm job array:
#   export LARNN_MONGO_URI='mongodb://worker@mongo.example.org/larnn_search?tls=true&tlsCAFile=/run/secrets/mongo_ca'
#   export LARNN_MONGO_CA=$HOME/.larnn/mongo_ca.pem
#   export LARNN_MONGO_PASSWORD_FILE=$HOME/.larnn/worker_password
#   export LARNN_IMAGE=$HOME/larnn-search.sif
#   sbatch deploy/slurm-workers.sh
#SBATCH --job-name=larnn-worker
#SBATCH --array=0-7
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=larnn-worker-%A_%a.log
set -euo pipefail
: "${LARNN_MONGO_URI:?set it to the address of MongoDB (docs/deploy.md)}"
: "${LARNN_MONGO_PASSWORD_FILE:?set it to the file that holds the password of the user worker}"
: "${LARNN_IMAGE:?set it to the Apptainer image (docs/deploy.md)}"

# With GPUs (add --gres=gpu:N above): one slot for each; else one for each core.
if [ -n "${SLURM_JOB_GPUS:-}${SLURM_STEP_GPUS:-}" ]; then
  arguments=(--nv "$LARNN_IMAGE" worker --slots auto)
else
  arguments=("$LARNN_IMAGE" worker --slots "${SLURM_CPUS_PER_TASK:?}")
fi

binds=(--bind "$LARNN_MONGO_PASSWORD_FILE:$LARNN_MONGO_PASSWORD_FILE:ro")
if [ -n "${LARNN_MONGO_CA:-}" ]; then
  binds+=(--bind "$LARNN_MONGO_CA:/run/secrets/mongo_ca:ro")
fi

# --containall hands on none of this task's variables, without which a worker would take every GPU of the node.
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
  export APPTAINERENV_CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES
fi
# Not as options: a node's other users see command lines.
export APPTAINERENV_LARNN_MONGO_URI=$LARNN_MONGO_URI
export APPTAINERENV_LARNN_MONGO_PASSWORD_FILE=$LARNN_MONGO_PASSWORD_FILE
# `exec`: Slurm's SIGTERM, a minute before the time is over, reaches the worker itself, which saves
# its trials and gives them back to the queue.
exec apptainer run --containall "${binds[@]}" "${arguments[@]}"
