#!/usr/bin/env bash
# The whole recipe on two CPU processes, from nothing: bash launchers/quickstart.sh
#
# Installs what is needed into .venv, prepares the sample text, trains Joint Training and PreAlign on equal text, and
# sets them beside each other on a page. Started again after an interruption, it goes on where it was.
#
#   SEEDS="11 12 13"  train each variant with these seeds (default: 11; 1 and 2 are what the recipe was set with)
#   CONTROL=1       train a third variant: PreAlign with a permuted alignment table
#   OUT=folder      where runs and page go (default: runs/quickstart)
set -euo pipefail
cd "$(dirname "$0")/.."

seeds=${SEEDS:-11}
out=${OUT:-runs/quickstart}
variants="Joint PreAlign"
[ -z "${CONTROL:-}" ] || variants+=" Control"
count=$(($(wc -w <<<"$seeds") * $(wc -w <<<"$variants")))
began=$SECONDS

say() { printf '\n[%d:%02d] %s\n' $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)) "$*"; }

say "1/4 environment: .venv with pinned packages (two minutes the first time)"
source launchers/install.sh
install_into .venv launchers/requirements.txt
# this tour is for CPUs, whatever else the machine has
export CUDA_VISIBLE_DEVICES="" DS_ACCELERATOR=cpu PYTHONWARNINGS=ignore

say "2/4 data: tokenizer, token stores, alignment table and code-switch map of configs/sample_text (ten seconds)"
python launchers/prepare.py --config enclone_demo

say "3/4 training: $count runs, three to four minutes each on two cores: $variants, seeds $seeds"
runs=()
for seed in $seeds; do
    for variant in $variants; do
        case $variant in
        Joint) changes=("stages=[pretrain]" codeswitch.ratio=0) ;;
        PreAlign) changes=() ;;
        Control) changes=(lexicon.permute=both) ;;
        esac
        folder=$out/${variant,,}-$seed
        say "$variant, seed $seed -> $folder"
        port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
        deepspeed --quiet --num_accelerators 2 --master_port "$port" launchers/pretrain.py --config enclone_demo \
            "run_dir=$folder" "seed=$seed" "name=${variant,,}-$seed" "${changes[@]}"
        runs+=("$variant=$folder")
    done
done

say "4/4 comparison"
python launchers/compare.py --out "$out/comparison" --title "PreAlign against Joint Training on En-Clone" "${runs[@]}"
say "done"
