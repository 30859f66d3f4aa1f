#!/usr/bin/env bash
# Starts the program on all workers of a TPU pod slice, again as long as code 75 asks for:
#   TPU=my-v4-32 ZONE=us-central2-b tpu_pod.sh --out /mnt/shared/first --batch 4096
# The repository lies in ~/optax_lena of every worker, and --out on a disk that they share.
set -euo pipefail
: "${TPU:?the name of the TPU, as gcloud compute tpus tpu-vm list has it}"
: "${ZONE:?its zone}"

printf -v options '%q ' "$@"
while true; do
    code=0
    gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all \
        --command="cd optax_lena && python -m examples.pod_training $options" || code=$?
    # 75: stopped after saving (maintenance), or a worker was lost; 134: the first one was.
    [ "$code" -eq 75 ] || [ "$code" -eq 134 ] || exit "$code"
    sleep 10
done
