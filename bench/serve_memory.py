#!/usr/bin/env python3
"""serve_memory.py PROGRAM MODEL FIT [OPTIONS...] - what `serve --fit` counts beside what the process holds: its
anonymous pages while prompts that fill the context run, as many as run at once, and one of them with echo."""
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request


def anonymous(pid):
    with open(f'/proc/{pid}/status') as status:
        return int(re.search(r'RssAnon:\s+(\d+)', status.read()).group(1)) / 1024


def main():
    program, model, fit = sys.argv[1:4]
    server = subprocess.Popen([program, 'serve', model, '--port', '0', '--fit', fit] + sys.argv[4:],
                              stdout=subprocess.PIPE, text=True)
    said = ''
    for line in server.stdout:
        said += line
        if 'sequences at once' in line:
            break
    print(said, end='')
    port = re.search(r'127\.0\.0\.1:(\d+)', said).group(1)
    rows, context = map(int, re.search(r'(\d+) sequences at once, (\d+) tokens', said).groups())
    idle = most = anonymous(server.pid)
    over = threading.Event()

    def watch():
        nonlocal most
        while not over.wait(0.002):
            most = max(most, anonymous(server.pid))

    def ask(**fields):
        body = {'prompt': [5 + i % 300 for i in range(context - 8)], 'seed': 1, **fields}
        request = urllib.request.Request(f'http://127.0.0.1:{port}/v1/completions', json.dumps(body).encode(),
                                         {'Content-Type': 'application/json'})
        urllib.request.urlopen(request).read()

    watching = threading.Thread(target=watch)
    watching.start()
    asking = [threading.Thread(target=ask, kwargs={'max_tokens': 8}) for _ in range(rows)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    prompts = most
    ask(max_tokens=1, echo=True, logprobs=0)
    over.set()
    watching.join()
    print(f'anonymous pages, MiB: idle {idle:.1f}; {rows} prompts of {context - 8} tokens {prompts:.1f}; '
          f'with an echo {most:.1f}')
    server.terminate()
    server.wait()


main()
