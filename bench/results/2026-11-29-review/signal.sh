#!/bin/bash
# signal.sh PROGRAM TIMES - resumes a small elastic run and tells it to stop after 20 lines of its log, so many times; counts exit
# codes (75: saved). Run in a folder with parent.yaml and run.yaml of tests/trainer/run_resume_test.sh.
set -u
program=$(realpath "$1")
stop() {  # FOLDER LINES
  (cd "$1" && exec "$program" run ../run.yaml >../out 2>&1) &
  pid=$!
  while [ "$(cat "$1/runs/run/log.jsonl" 2>/dev/null | wc -l)" -lt "$2" ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
  kill -TERM $pid 2>/dev/null
  wait $pid
}
"$program" pretrain parent.yaml >/dev/null 2>&1
mkdir -p term/runs && ln -sfn "$PWD/runs/parent" term/runs/parent
stop term 5
mv term/runs/run at
for _ in $(seq "$2"); do
  rm -rf term/runs/run
  cp -r at term/runs/run
  stop term 20 2>/dev/null
  echo "exit code $?"
done | sort | uniq -c
