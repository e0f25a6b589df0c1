#!/usr/bin/env bash
# Measures one accelerator in under ten minutes, without a network: rates of the device, scoring and decoding beside
# transformers on torch, plans in turn, memory, and how far bfloat16 is from float32. Tables go to $OUT (./on-device
# without it) as on_device.md and on_device.json, each part as soon as it is done.
#
#     OUT=results benchmarks/on_device.sh [--wheels FOLDER] [--shape llama2-7b] [--tiny]
#
# --tiny runs tiny shapes on any device, a CPU too. --wheels installs what the machine lacks, from a folder alone. Where
# Python 3.12, JAX, torch, transformers and safetensors are there already, the folder is filled elsewhere, with a network:
#
#     pip download --no-deps --python-version 3.12 --only-binary=:all: -d FOLDER WHEELS
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
arguments=()
while (($#)); do
    case $1 in
    --wheels) wheels=${2:?--wheels needs a folder} && shift ;;
    *) arguments+=("$1") ;;
    esac
    shift
done
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
if [ -n "${wheels:-}" ]; then
    "$python" -m pip install -q --no-index --no-deps --target "$environment/packages" "$wheels"/*.whl
fi
# What is compiled is kept nowhere: a machine is measured from its first minute on.
export PYTHONPATH=$PWD:$environment/packages JAXPAINT_CACHE=$environment/cache HF_HUB_OFFLINE=1
"$python" benchmarks/on_device.py --out "${OUT:-on-device}" "${arguments[@]}"
