"""openai_client.py URL FILE.h5 PROGRAM - the server of FILE.h5 as OpenAI's Python client finds it, and multiple-choice items
scored through /v1/completions as lm-eval's local-completions does it, against logits that PROGRAM writes itself.

Needs: pip install openai. The rest is Python's.
"""
import json
import math
import struct
import subprocess
import sys
import tempfile
import urllib.request

import openai

url, model, program = sys.argv[1:4]
client = openai.OpenAI(base_url=url + '/v1', api_key='none')


def chat(size, **more):
    return client.chat.completions.create(model=size, messages=[{'role': 'user', 'content': 'What is 347 + 58?'}],
                                          temperature=0, max_tokens=64, **more)


def log_softmax(size, ids):
    """Of every token after the first, from `nestling logits`, which knows nothing of the server."""
    with tempfile.NamedTemporaryFile(suffix='.safetensors') as out:
        subprocess.run([program, 'logits', model, '--size', size, '--token-ids', ','.join(map(str, ids)), '--out', out.name],
                       check=True)
        raw = open(out.name, 'rb').read()
    length = struct.unpack('<Q', raw[:8])[0]
    entry = json.loads(raw[8:8 + length])['logits']
    begin, end = entry['data_offsets']
    rows, vocab = entry['shape']
    values = struct.unpack(f'<{rows * vocab}f', raw[8 + length + begin:8 + length + end])
    told = []
    for t in range(rows - 1):
        row = values[t * vocab:(t + 1) * vocab]
        top = max(row)
        total = top + math.log(sum(math.exp(x - top) for x in row))
        told.append((row[ids[t + 1]] - total, row[ids[t + 1]] == top))
    return told


def tokenize(text):
    body = json.dumps({'prompt': text, 'add_special_tokens': False}).encode()
    with urllib.request.urlopen(urllib.request.Request(url + '/tokenize', body, {'Content-Type': 'application/json'})) as got:
        return json.load(got)['tokens']


ids = [m.id for m in client.models.list()]
print('models:', ', '.join(ids))
sizes = [i for i in ids if '>' not in i]
assert client.models.retrieve(ids[-1]).id == ids[-1]

for size in ids:
    whole = chat(size)
    message = whole.choices[0].message
    content = reasoning = ''
    usage = None
    for chunk in chat(size, stream=True, stream_options={'include_usage': True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            content += choice.delta.content or ''
            reasoning += getattr(choice.delta, 'reasoning_content', None) or ''
    assert (content, reasoning) == (message.content, message.reasoning_content), size
    assert usage == whole.usage, (usage, whole.usage)
    print(f'chat, {size}: {message.reasoning_content!r} -> {content!r}, {usage.completion_tokens} tokens; streamed the same')

short = chat(sizes[0], extra_body={'thinking_token_budget': 4})
print(f'a budget of 4: {short.choices[0].message.reasoning_content!r} -> {short.choices[0].message.content!r}')
none = chat(sizes[0], extra_body={'chat_template_kwargs': {'enable_thinking': False}})
assert not hasattr(none.choices[0].message, 'reasoning_content')
for wrong, error in (({'model': '30B'}, openai.NotFoundError), ({'model': sizes[0], 'presence_penalty': 1}, openai.BadRequestError),
                     ({'model': sizes[0], 'tools': [{'type': 'function', 'function': {'name': 'f'}}]}, openai.BadRequestError)):
    try:
        client.chat.completions.create(messages=[{'role': 'user', 'content': 'x'}], **wrong)
    except error as e:
        print(f'{type(e).__name__}: {e.body["message"]}')
    else:
        raise SystemExit(f'{wrong} was accepted')

# As lm-eval sends them: all choices of all items in one request, as token ids.
turn = '<|im_start|>user\nWhat is {}?<|im_end|>\n<|im_start|>assistant\n<think></think>'
items = [(turn.format(f'{a} + {b}'), [str(a + b + d) for d in (0, 1, 10)]) for a, b in ((3, 4), (12, 9), (40, 25), (6, 31))]
largest = 0.0
for size in sizes:
    asked = [(tokenize(question), tokenize(answer)) for question, answers in items for answer in answers]
    told = client.completions.create(model=size, prompt=[q + a for q, a in asked], temperature=0, max_tokens=1, logprobs=1, seed=1234,
                                     echo=True)
    scores = []
    for (question, answer), choice in zip(asked, sorted(told.choices, key=lambda c: c.index)):
        span = slice(len(question), len(question) + len(answer))
        got = choice.logprobs.token_logprobs[span]
        greedy = [max(top.values()) == lp for top, lp in zip(choice.logprobs.top_logprobs[span], got)]
        want = log_softmax(size, question + answer)[len(question) - 1:]
        assert len(got) == len(want) == len(answer)
        largest = max([largest] + [abs(g - w) for g, (w, _) in zip(got, want)])
        assert greedy == [best for _, best in want]
        scores.append(sum(got))
    right = sum(max(range(3), key=lambda k: scores[3 * i + k]) == 0 for i in range(len(items)))
    print(f'{size}: {len(asked)} answers scored, {right} of {len(items)} items right by likelihood; every is_greedy as the logits have it')
print(f'largest difference to log-softmax of `logits`: {largest:.1e} nats')
assert largest < 1e-3
