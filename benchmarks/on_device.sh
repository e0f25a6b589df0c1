#!/usr/bin/env bash
# Measures one accelerator in under ten minutes, without a network: rates of the device, scoring and decoding beside
# transformers on torch, plans in turn, memory, and how far bfloat16 is from float32. Tables go to $OUT (./on-device
# without it) as on_device.md and on_device.json, each part as soon as it is done.
#
#     OUT=results benchmarks/on_device.sh [--wheels FOLDER] [--shape llama2-7b] [--tiny] [--kernels]
#
# --tiny runs tiny shapes on any device, a CPU too. --wheels installs what the machine lacks, from a folder alone. Where
# Python 3.12, JAX, torch, transformers and safetensors are there already, the folder is filled elsewhere, with a network:
#
#     pip download --no-deps --python-version 3.12 --only-binary=:all: -d FOLDER absl-py annotated-types etils 'flax<0.13' \
#         humanize importlib-resources 'jaxtyping<0.4' msgpack 'optax<0.3' 'orbax-checkpoint<0.13' platformdirs protobuf \
#         psutil pydantic pydantic-core==VERSION simplejson tensorstore treescope typing-inspection uvloop wadler-lindig zipp
#
# (VERSION is the one that pydantic's metadata name.)
#
# (About 30 MB.) The exit status is 1 where a part failed; the others' tables are there all the same.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
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
    if ! compgen -G "$wheels/*.whl" >/dev/null; then
        echo "$0: --wheels $wheels holds no wheels; $0 says in its first lines how to fill it" >&2
        exit 2
    fi
    "$python" -m pip install -q --no-index --no-deps --target "$environment/packages" "$wheels"/*.whl
fi
# What is compiled is kept nowhere: a machine is measured from its first minute on.
export PYTHONPATH=$root:$environment/packages JAXPAINT_CACHE=$environment/cache HF_HUB_OFFLINE=1
"$python" "$root/benchmarks/on_device.py" --out "${OUT:-on-device}" "${arguments[@]}"
