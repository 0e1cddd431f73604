#!/usr/bin/env bash
# serve.sh MODEL OUT_DIR - what `nestling serve` gives to 1, 4 and 16 clients at once: tokens a second in all, time to
# the first token, processor time of the server a token. Every client streams chats one after another: sums of two numbers, others for every request. OUT_DIR
# gets runs.jsonl (a line a run), output.txt and table.md.
#
# The table     measured: medians over the runs, least and most in brackets. Runs are in turns: every number of clients
#               once, then again. A first run of each is thrown away. Tokens are those of `usage`. The clients run on the
#               same machine and take time of it; processor time is the server's alone, of all its threads, and the one
#               figure that other work on the machine changes little, where OMP_WAIT_POLICY=passive.
# Environment   PROGRAM, CLIENTS (default "1 4 16"), RUNS (5), REQUESTS (of all clients together in a run, 32), MAX_TOKENS
#               (64), SIZE (a model id; default the server's), SERVE (more options, default "--parallel 16")
set -euo pipefail
cd "$(dirname "$0")/.."
usage='usage: bench/serve.sh MODEL OUT_DIR'
model=${1:?$usage} out=${2:?$usage}
program=${PROGRAM:-build/release/nestling}
mkdir -p "$out"
read -ra more <<<"${SERVE:---parallel 16}"
command=("$program" serve "$model" --port 0 "${more[@]}")
echo "\$ ${command[*]}" >"$out/output.txt"
"${command[@]}" >>"$out/output.txt" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
until grep -q 'http://' "$out/output.txt"; do
  kill -0 $server 2>/dev/null || { cat "$out/output.txt" >&2; exit 1; }
  sleep 0.1
done
url=$(grep -o 'http://[^ ]*' "$out/output.txt")
python3 - "$url" "$out" "${CLIENTS:-1 4 16}" "${RUNS:-5}" "${REQUESTS:-32}" "${MAX_TOKENS:-64}" "${SIZE-}" $server <<'MEASURE' | tee "$out/table.md"
import http.client, json, os, statistics, sys, threading, time, urllib.parse

url, out, counts = sys.argv[1], sys.argv[2], [int(n) for n in sys.argv[3].split()]
runs, requests, max_tokens, size = int(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]), sys.argv[7]
address, server = urllib.parse.urlparse(url).netloc, sys.argv[8]


def processor_seconds():
    fields = open(f'/proc/{server}/stat').read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def ask(connection, i):
    body = {'messages': [{'role': 'user', 'content': f'What is {300 + 7 * i} + {58 + i}?'}], 'temperature': 0,
            'max_tokens': max_tokens, 'stream': True, 'stream_options': {'include_usage': True}}
    if size: body['model'] = size
    begin, first, tokens = time.perf_counter(), None, 0
    connection.request('POST', '/v1/chat/completions', json.dumps(body), {'Content-Type': 'application/json'})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    for line in answer:
        if not line.startswith(b'data: {'): continue
        event = json.loads(line[6:])
        if event['usage']: tokens = event['usage']['completion_tokens']
        delta = event['choices'][0]['delta'] if event['choices'] else {}
        if first is None and (delta.get('content') or delta.get('reasoning_content')): first = time.perf_counter() - begin
    return tokens, first, time.perf_counter() - begin


def run(clients):
    told, lock, todo = [], threading.Lock(), iter(range(requests))

    def client():
        connection = http.client.HTTPConnection(address)
        while True:
            with lock: i = next(todo, None)
            if i is None: return
            answer = ask(connection, i)
            with lock: told.append(answer)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    begin, before = time.perf_counter(), processor_seconds()
    for t in threads: t.start()
    for t in threads: t.join()
    seconds = time.perf_counter() - begin
    tokens = sum(t for t, _, _ in told)
    return {'clients': clients, 'requests': len(told), 'tokens': tokens, 'seconds': seconds, 'tokens_per_second': tokens / seconds,
            'processor_ms_a_token': 1000 * (processor_seconds() - before) / tokens,
            'first_token_ms': 1000 * statistics.median(f for _, f, _ in told if f is not None),
            'request_seconds': statistics.median(s for _, _, s in told)}


for n in counts: run(n)
results = []
with open(f'{out}/runs.jsonl', 'w') as lines:
    for _ in range(runs):
        for n in counts:
            results.append(run(n))
            print(json.dumps(results[-1]), file=lines, flush=True)

print('| clients | processor ms a token | tokens/s, all together | tokens/s of one client | first token, ms | a request, s | tokens of a run |')
print('|---|---|---|---|---|---|---|')
for n in counts:
    mine = [r for r in results if r['clients'] == n]
    def cell(key, digits, scale=1.0):
        values = [r[key] * scale for r in mine]
        return f'{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})'
    tokens = ', '.join(str(t) for t in sorted({r['tokens'] for r in mine}))
    print(f"| {n} | {cell('processor_ms_a_token', 2)} | {cell('tokens_per_second', 0)} | {cell('tokens_per_second', 0, 1 / n)} | {cell('first_token_ms', 1)} | "
          f"{cell('request_seconds', 3)} | {tokens} |")
MEASURE
kill -TERM $server
wait $server
trap - EXIT
