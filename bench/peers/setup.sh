#!/usr/bin/env bash
# setup.sh - makes the Python environment of the peers and golden vectors. Running it again does nothing.
#
#   bench/peers/setup.sh                     -> bench/peers/.venv
#   NESTLING_PEERS_VENV=/some/where bench/peers/setup.sh
#   NESTLING_PEERS_FULL=1 bench/peers/setup.sh    torch with all its CUDA packages (4 GB more)
#
# PyPI's torch names the whole CUDA toolkit as a requirement. On the CPU it only has to load. So torch goes in without its requirements; if it then
# misses shared libraries, the few that a CUDA toolkit installation lacks are added, and if that is not enough, all of them.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
venv="${NESTLING_PEERS_VENV:-$here/.venv}"
requirements="$here/requirements.txt"
stamp="$venv/.nestling-requirements"
want="$(cat "$requirements") full=${NESTLING_PEERS_FULL:-0}"

if [[ -x "$venv/bin/python" && -f "$stamp" && "$(cat "$stamp")" == "$want" ]]; then
  echo "peers: $venv is up to date"
  exit 0
fi

python3 -c 'import venv, ensurepip' 2>/dev/null || { echo "peers: python3 lacks venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
[[ -x "$venv/bin/python" ]] || python3 -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
loads() { "$venv/bin/python" -c 'import torch; torch.ones(2) @ torch.ones(2)' >/dev/null 2>&1; }
torch_requirement="$(grep '^torch==' "$requirements")"

echo "peers: installing into $venv"
if [[ "${NESTLING_PEERS_FULL:-0}" == 1 ]]; then
  pip install -r "$requirements"
else
  # torch's own requirements other than CUDA and triton
  pip install filelock 'typing-extensions>=4.13.0' 'setuptools>=77.0.3' 'sympy>=1.13.3' 'networkx>=2.5.1' 'fsspec>=0.8.5'
  grep -v -e '^torch==' -e '^#' "$requirements" | pip install -r /dev/stdin
  pip install --no-deps "$torch_requirement"
  # In this order: what a toolkit does not carry, then a newer NCCL than it carries.
  for extra in '' 'nvidia-cufile==1.20.0.107 nvidia-cusparselt-cu13==0.8.1 nvidia-nvshmem-cu13==3.7.2' 'nvidia-nccl-cu13==2.30.7'; do
    # shellcheck disable=SC2086
    [[ -z "$extra" ]] || pip install --no-deps $extra
    if loads; then break; fi
  done
  loads || { echo "peers: no CUDA libraries on this machine; installing torch with all of its own"; pip install -r "$requirements"; }
fi
loads || { echo "peers: torch does not load:" >&2; "$venv/bin/python" -c 'import torch' >&2; exit 1; }
"$venv/bin/python" - <<'PY'
import torch, transformers, tokenizers, safetensors, numpy, jinja2, tensorboard
print(f"peers: torch {torch.__version__}, transformers {transformers.__version__}, tokenizers {tokenizers.__version__}")
PY
printf '%s' "$want" > "$stamp"
