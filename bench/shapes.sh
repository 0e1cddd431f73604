# shapes.sh - sourced: directories with the config.json of published models, without weights, made of the five layers in
# configs/parents with the published pattern and widths in their place.

# shape DIRECTORY PATTERN [KEY=VALUE]...
shape() {
  local config=$1/config.json pattern=$2
  mkdir "$1"
  sed -e "s/\"hybrid_override_pattern\": .*/\"hybrid_override_pattern\": \"$pattern\",/" \
    -e "s/\"num_hidden_layers\": .*/\"num_hidden_layers\": ${#pattern},/" configs/parents/nano3-5l-128e/config.json >"$config"
  shift 2
  for assignment in "$@"; do
    sed -i "s/\"${assignment%=*}\": .*/\"${assignment%=*}\": ${assignment#*=},/" "$config"
  done
}

# Nemotron 3 Nano 30B-A3B as FOLDER/nano-30b, and Nemotron Nano 12B v2 as FOLDER/nano-12b.
nano_shapes() {  # FOLDER
  shape "$1/nano-30b" MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME
  shape "$1/nano-12b" M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M- hidden_size=5120 \
    intermediate_size=20480 num_attention_heads=40 num_key_value_heads=8 mamba_num_heads=128 mamba_head_dim=80
}
