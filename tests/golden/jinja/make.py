#!/usr/bin/env python3
"""make.py [--check] - cases.json beside it: templates, variables, and what Jinja2 renders of them.

Needs jinja2 and transformers, whose own function compiles the templates. With --check nothing is written;
exit 1 if the file is another.
"""
import json
import pathlib
import sys

import jinja2
import transformers
from transformers.utils.chat_template_utils import _compile_jinja_template

ROOT = pathlib.Path(__file__).resolve().parents[3]

V = {
    "n": 7, "text": "  a b \n", "word": "Über", "list": ["x", "y", "z"], "empty": [], "none": None,
    "yes": True, "no": False, "message": {"role": "user", "content": "hi"}, "wide": "\u00a0\u4e2d \u2003",
}
TEXTS = [
    # whitespace
    "a\n{% if yes %}\nb\n{% endif %}\nc\n", "a\n  {% if yes %}  b{% endif %}  \nc\n\n",
    "a  {%- if yes -%}  b  {%- endif -%}  c", "a\n  {%+ if yes %}b{% endif +%}\nc",
    "a\n {# note #}\nb {#- note -#} c", "{{ 'x' }}\n{{- 'y' -}}\n z", " {{ n }} \n {{ n }}",
    "a\r\nb\rc", "x {{ '}}' }} {{ {'a': 1}['a'] }}",
    # expressions
    "{{ n + 2 * 3 - 1 }} {{ -n }} {{ n // 2 }} {{ n % 3 }} {{ -7 // 2 }} {{ -7 % 3 }}",
    "{{ 'a' ~ n ~ none ~ yes ~ missing }}", "{{ 'a' + 'b' 'c' }}", "{{ 'it\\'s' + \"\\t\\\\\" }}",
    "{{ 'a' + 1 ~ 2 }}", "{{ n == 7 and not n != 7 }} {{ n < 8 }} {{ n >= 8 }} {{ 'a' < 'b' }}",
    "{{ 'x' in list }} {{ 'q' not in list }} {{ 'b' in text }} {{ 'role' in message }}",
    "{{ yes or missing.field }} {{ no and missing.field }} {{ none or 'else' }} {{ 0 or empty | length }}",
    "{{ 'a' if n > 5 else 'b' }}{{ 'c' if no }}{{ ('d' if no else 'e') ~ 'f' }}",
    "{{ list[0] }}{{ list[-1] }}{{ list[5] }}{{ message['role'] }}{{ message.content }}{{ message.no }}",
    "{% for x in list[1:] %}{{ x }}{% endfor %}{% for x in list[:-1] %}{{ x }}{% endfor %}",
    "{{ none == none }} {{ missing == none }} {{ 1 == 1.0 }} {{ '1' == 1 }}", "{{ not missing }} {{ not 'a' == 'a' }}",
    # filters, tests, methods
    "[{{ text | trim }}][{{ word | length }}][{{ list | length }}][{{ message | count }}]",
    "[{{ missing | default('d') }}][{{ '' | default('d') }}][{{ '' | default('d', true) }}][{{ none | default('d') }}]",
    "{{ 'aB' | upper }}{{ 'aB' | lower }}{{ list | first }}{{ list | last }}{{ n | string ~ 'x' }}{{ none | string }}",
    "{{ text | trim | length > 2 }} {{ 'a' ~ text | trim }}",
    "{{ n is defined }} {{ missing is not defined }} {{ none is none }} {{ text is string }} {{ message is mapping }}",
    "{{ list is iterable }} {{ list is sequence }} {{ n is iterable }} {{ yes is true }} {{ n is number }} {{ no is false }} {{ yes is boolean }}",
    "[{{ text.strip() }}][{{ text.lstrip() }}][{{ text.rstrip('\\n') }}][{{ 'a-b-c'.split('-')[-1] }}][{{ 'abc'.replace('b', 'x') }}]",
    "{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith('ab') }} {{ 'aB'.upper() }} {{ 'aB'.lower() }}",
    # statements
    "{% for x in list %}{{ loop.index }}{{ loop.index0 }}{{ x }}{{ '.' if loop.last else ',' }}{{ loop.first }}{{ loop.length }}\n{% endfor %}",
    "{% for x in empty %}{{ x }}{% else %}none{% endfor %}{% for x in missing %}{{ x }}{% endfor %}",
    "{% set a = 1 %}{% for x in list %}{% set a = x %}{{ a }}{% endfor %}{{ a }}",
    "{% if yes %}{% set b = 'in' %}{% endif %}{{ b }}",
    "{% set ns = namespace(last=-1, who='') %}{% for x in list %}{% if x == 'y' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{{ ns.last }}{{ ns.who }}",
    "{% set block %}<{{ n }}>{% endset %}{{ block }}{{ block | length }}",
    "{% if n == 1 %}1{% elif n == 7 %}7{% elif yes %}y{% else %}e{% endif %}{% if no %}x{% else %}e{% endif %}",
    "{% for x in list %}{% for y in list %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% macro m(a, b='c') %}{{ a }}{% endmacro %}after",
    "{% macro m(a, b='c', d=a) %}\n<{{ a }}{{ b }}{{ d }}{{ n }}>\n{% set n = 0 %}{% endmacro %}{{ m(1) }}{{ m(1, d=2) }}{{ m(b='x') | trim }}{{ n }}{{ m is defined }}",
    "{% macro m(a) %}{{ a }}{% for x in list %}{{ loop.index }}{% endfor %}{{ later }}{% endmacro %}{% set later = 'L' %}{% for x in list %}{{ m(x) ~ loop.last }}{% endfor %}",
    "{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}{% macro m(n) %}other{% endmacro %}{{ m() }}",
    "{% set d = {'a': [1, {'b': 'c'}]} %}{{ d.a[1].b }}{{ d['a'] | length }}",
    "{%- set enable = enable if enable is defined else True %}{{ enable }}",
    # found by rendering random templates here and there
    "{#-#}\n  x", "a{#-#}\t", " \u00a0{{- n -}}\u2003\n", "\u00a0{% if yes %}a\n\u00a0{% endif %}b", "{{\u00a0n }}",
    "[{{ wide | trim }}][{{ wide.rstrip() }}][{{ wide.lstrip() }}][{{ 'éaè'.strip('è') }}][{{ 'xax' | trim('x') }}]",
    "{{ -n | string ~ +n }}",
    "{{ 1 == yes }} {{ 0 in [no] }} {{ [1, yes] == [yes, 1] }} {{ list[yes] }} {{ {'a': 1} == {'a': yes} }}",
    "{{ missing is sequence }} {{ missing | length }} [{{ missing | first }}] {{ 'a' in missing }} [{{ '' | last }}]",
    "{{ strftime_now is defined }} {{ raise_exception is defined }} {{ range is not defined }} {{ strftime_now('%Y') | length }} {{ strftime_now('d') }}",
    "{{ word[0] }}{{ word[-1] }}{{ word[9] }} {{ word[1:3] }} {{ word[::-1] }} {{ wide[1] }} {{ word | first }}{{ word | last }}",
    "{% for x in list[::-1] %}{{ x }}{% endfor %} {% for x in list[5:0:-2] %}{{ x }}{% endfor %} {% for x in list[-2:none] %}{{ x }}{% endfor %} {% for x in list[:-4:-1] %}{{ x }}{% endfor %}",
    "{% for x in list %}{{ loop.previtem }}-{{ loop.nextitem }}-{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.depth }}{{ loop.previtem is defined }};{% endfor %}",
    "{% for x in list if x != 'y' %}{{ loop.index }}{{ x }}{{ loop.last }}{% else %}none{% endfor %}{% for x in list if no %}{% else %}none{% endfor %}",
    "{% set a = 1 %}{% generation %}{% set a = 2 %}g{{ a }}{% endgeneration %}\n{{ a }}",
    "{{ list | join(', ') }} {{ [1, none, yes] | join }} {{ 'aba' | replace('a', 'x') }} {{ '' | default('e', boolean=true) }}",
    "{{ message.get('role') }} {{ message.get('zz') }} {{ message.get('zz', 1) }} {{ ' a  b\tc '.split() | join('|') }} {{ 'a-b-c'.split('-', 1)[1] }} {{ 'a b c'.split(none, 1)[1] }}",
    "{{ '\\x41\\u00e9\\U0001f600\\q\\a' }}",
]
# In the manner of templates that drop the thinking of old turns.
DROPPING = """{%- set enable_thinking = enable_thinking if enable_thinking is defined else True %}
{%- set ns = namespace(last_user_idx = -1) %}
{%- set loop_messages = messages %}
{%- for m in loop_messages %}
    {%- if m["role"] == "user" %}
        {%- set ns.last_user_idx = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
    {{- "<|im_start|>system\\n" ~ system ~ "<|im_end|>\\n" }}
{%- endif %}
{%- for message in loop_messages %}
    {%- if message.role == "assistant" %}
        {%- if message.reasoning_content is defined and message.reasoning_content is string and message.reasoning_content | trim | length > 0 %}
            {%- set content = "<think>\\n" ~ message.reasoning_content ~ "\\n</think>\\n" ~ (message.content | default('', true)) %}
        {%- else %}
            {%- set content = "<think></think>" ~ (message.content | default('', true)) %}
        {%- endif %}
        {%- if loop.index0 < ns.last_user_idx and '</think>' in content %}
            {%- set content = "<think></think>" ~ content.split('</think>')[-1] %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' ~ (content | trim) ~ '<|im_end|>\\n' }}
    {%- elif message.role == "user" or message.role == "system" %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- set content = message.content | string %}
        {{- content }}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- raise_exception('a role') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {%- if enable_thinking %}
        {{- '<|im_start|>assistant\\n<think>\\n' }}
    {%- else %}
        {{- '<|im_start|>assistant\\n<think></think>' }}
    {%- endif %}
{%- endif %}
"""

# In the manner of templates that look for the last question from the end, and keep what came after it.
FROM_THE_END = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- set content = message.content %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or (not loop.last and thought)) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for call in message.tool_calls %}{{- call.arguments | tojson }}{%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
# In the manner of templates that write a header of their own and take switches out of the system's text.
HEADER = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("on a day") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- if "/no_think" in system_message %}{%- set enable_thinking = false %}{%- endif %}
    {%- set system_message = system_message.replace("/no_think", "").rstrip() %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
<|start_header_id|>system<|end_header_id|>

Today Date: {{ date_string }}

{{ system_message -}}
<|eot_id|>
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {%- if message.role == 'assistant' %}
            {%- generation %}
            {{- message['content'] | trim + '<|eot_id|>' }}
            {%- endgeneration %}
        {%- else %}
            {{- message['content'] | trim + '<|eot_id|>' }}
        {%- endif %}
    {%- elif 'tool_calls' in message and message.tool_calls|length != 1 %}
        {{- raise_exception("one call at a time") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{{ '<think></think>' if not enable_thinking }}
{%- endif %}
"""


def conversation(thinking):
    return {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is 2 + 2?\n"},
            {"role": "assistant", "content": "4", "reasoning_content": "2 + 2 = 4"},
            {"role": "user", "content": "And 3 + 3?"},
            {"role": "assistant", "content": "6"},
            {"role": "user", "content": "<b>Thanks</b> & bye"},
        ],
        "add_generation_prompt": True, "enable_thinking": thinking, "tools": None, "bos_token": "<s>",
    }


def case(text, variables=None):
    rendered = _compile_jinja_template(text).render(**(variables or V))
    return {"template": text, "text": rendered} | ({"variables": variables} if variables else {})


cases = [case(t) for t in TEXTS]
tiny = (ROOT / "data/parents/tiny-reasoner/chat_template.jinja").read_text()
for template in (tiny, DROPPING, FROM_THE_END, HEADER):
    for thinking in (True, False):
        cases.append(case(template, conversation(thinking)))
        cases.append(case(template, conversation(thinking) | {"add_generation_prompt": False}))
path = pathlib.Path(__file__).with_name("cases.json")
made = json.dumps({"variables": V, "cases": cases}, indent=1, ensure_ascii=False) + "\n"
if "--check" in sys.argv:
    sys.exit(path.read_text() != made)
path.write_text(made)
print(f"{path}: {len(cases)} cases, jinja2 {jinja2.__version__}, transformers {transformers.__version__}")
