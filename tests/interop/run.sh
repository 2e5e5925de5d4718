#!/usr/bin/env bash
# tests/interop/run.sh TOOL [FOLDER]: make an environment with that tool, train a checkpoint in it, open it with the tool.
# TOOL: transformer_lens_3, transformer_lens_4, nnsight or saelens. FOLDER is kept and reused; without it a temporary one.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tool=${1:-}
if [[ ! -f "$here/check_$tool.py" ]]; then
    echo "usage: $0 transformer_lens_3|transformer_lens_4|nnsight|saelens [FOLDER]" >&2
    exit 2
fi
if [[ $# -gt 1 ]]; then
    folder=$2
    mkdir -p "$folder"
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONWARNINGS=ignore TRANSFORMERS_VERBOSITY=error
python=$folder/venv/bin/python

[[ -x $python ]] || "${PYTHON:-python3}" -m venv "$folder/venv"
"$python" -m pip install --quiet -c "$here/constraints.txt" -r "$here/$tool.txt" -e "$here/../.."

# From here on nothing needs a network.
export HF_HUB_OFFLINE=1
"$python" -m hf_tti train "$here/recipe.yaml" --run-dir "$folder/run" > "$folder/train.log" 2>&1 || {
    cat "$folder/train.log" >&2
    exit 1
}
"$python" "$here/check_$tool.py" "$folder/run/final"
