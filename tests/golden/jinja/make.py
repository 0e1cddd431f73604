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
    "quotes": "it's \"q\" \\ \t\u0001", "mixed": [1, "a", None, True, 2.5, {"z": "v", "a": [0]}, []],
    "dicts": [{"type": "text", "n": 2, "in": [1]}, {"type": "image", "n": 1, "in": [2], "u": None}, {"type": "text", "n": 3, "in": "s"}],
}
TEXTS = [
    # whitespace
    "a\n{% if yes %}\nb\n{% endif %}\nc\n", "a\n  {% if yes %}  b{% endif %}  \nc\n\n",
    "a  {%- if yes -%}  b  {%- endif -%}  c", "a\n  {%+ if yes %}b{% endif +%}\nc",
    "a\n {# note #}\nb {#- note -#} c", "{{ 'x' }}\n{{- 'y' -}}\n z", " {{ n }} \n {{ n }}",
    "a\r\nb\rc", "x {{ '}}' }} {{ {'a': 1}['a'] }}",
    # expressions
    "{{ n + 2 * 3 - 1 }} {{ -n }} {{ n // 2 }} {{ n % 3 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 // -2 }} {{ 7 % -3 }} {{ -6 % -3 }}",
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
    # values printed
    "{{ list }}{{ empty }}{{ {} }}{{ message }}{{ mixed }}{{ (1, 'a') }}{{ (1,) }}{{ () }}{{ [missing] }}",
    "{{ quotes }}{{ [quotes, \"it's\", 'say \"hi\"', '\\\\', '\\n\\x01\\x7f'] }}{{ [wide, '\\u200b', '\\ue000', '\\U0001f600', word] }}",
    "{{ 1.0 }} {{ 7 / 2 }} {{ 0.1 + 0.2 }} {{ 10000000000000000.0 }} {{ 0.00001 }} {{ 123456.75 * 2 }} {{ -0.0 }} {{ 1 / 3 }} {{ 2.5 is float }}",
    "{{ {1: 'a', none: 'b', true: 'c', 2.5: 'd', word: 'e', 'n': n} }} {{ {1: 'a'}[1] }}{{ {1: 'a'}[true] }}{{ {1: 'a'}['1'] }}",
    "{{ list[:2] }}{{ (1, 2, 3)[::-1] }}{{ ['a' | safe] }}{{ list | string }}{{ list ~ n }}{{ message | length }}",
    # JSON
    "{{ mixed | tojson }} {{ message | tojson }} {{ quotes | tojson }} {{ [word, wide, '\\x00\\x1f\\x7f'] | tojson }} {{ (1, [], {}) | tojson }}",
    "{{ mixed | tojson(indent=2) }} {{ {'b': [], 'a': {}} | tojson(indent=4, sort_keys=true) }} {{ list | tojson(indent=0) }} {{ list | tojson(indent='- ') }}",
    "{{ [word, '\\U0001f600\\x7f'] | tojson(ensure_ascii=true) }} {{ [word] | tojson(false, none, (',', ':')) }} {{ message | tojson(separators=(',', ':')) }} {{ message | tojson(indent=1, separators=[' ,', ' :']) }}",
    "{{ {1: 2, none: 3, true: 4, 0.5: 5} | tojson }} {{ '<&>' | tojson }} {{ '<&>' | tojson | safe }} {{ ('<' | safe) + '<' }} {{ ('<' | safe) ~ '<' }} {{ '<\\'' + ('>' | safe) | trim }}",
    # comparisons in a chain
    "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 3 > 2 != 1 == 1 }} {{ 1 < 2 in [2] }} {{ 'a' in 'ab' in ['ab'] }} {{ 2 < 1 < missing.field }} {{ yes == 1.0 < 2.5 }} {{ 1 not in [2] == true }}",
    # break and continue; a loop's else runs where no item went to the end of the body
    "{% for x in list %}{% if x == 'y' %}{% continue %}{% endif %}{{ x }}{% else %}e{% endfor %}|{% for x in list %}{{ x }}{% if loop.index == 2 %}{% break %}{% endif %},{% else %}e{% endfor %}",
    "{% for x in list %}{% break %}{% else %}e{% endfor %}|{% for x in list %}{% continue %}{% else %}e{% endfor %}|{% for x in list %}{% for y in list %}{{ y }}{% break %}{% endfor %}{{ x }}{% endfor %}",
    "{% for x in list %}{% for y in [] %}{% else %}{% break %}{% endfor %}{{ x }}{% endfor %}|{% for x in list %}{% set a %}{{ x }}{% continue %}{% endset %}{{ a }}{% endfor %}{{ a }}",
    # a loop's condition sees the loop around it
    "{% for a in list %}{% for x in [1, 2, 3] if x <= loop.index %}{{ x }}{{ loop.last }}{% endfor %}{% for x in list if loop is defined %}{{ x }}{% endfor %}{% endfor %}{% for x in list if loop is defined %}{{ x }}{% else %}e{% endfor %}",
    # raw
    "a\n  {% raw %}\n  {{ x }} {% if %}{# c #}\n  {% endraw %}\nb", "a {%- raw -%} \n {{ x }} \n {%- endraw -%} \n b", "{%+ raw %}{% endraw x %}\n  {%+ endraw +%}\nc", "{% raw %}{%endraw%}{{ n }}",
    # with, filter blocks
    "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% set a = 3 %}{{ a }}{% endwith %}{{ a }}{{ b }}{% with %}{{ a }}{% endwith %}",
    "{% filter upper | replace('A', 'b') %}a{{ word[1:] }}{% for x in list %}{{ x }}{% endfor %}{% endfilter %}|{% filter trim %} {% set a = 1 %} x {% endfilter %}{{ a }}",
    "{% set a = 1 %}{% set b %}{% set a = 2 %}{{ a }}{% endset %}{{ a }}{{ b }}{% for x in [] %}{% else %}{% set a = 4 %}{% endfor %}{{ a }}",
    # several variables, loops over what is no list
    "{% for k, v in message.items() %}{{ k }}={{ v }}{{ ',' if not loop.last }}{% endfor %}|{% for k, v in message | items %}{{ loop.length }}{{ k }}{% endfor %}|{% for (k, v) in [[1, 2], 'ab', (3, 4)] %}{{ k }}{{ v }}{% endfor %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a, b }}{% for x in 1, 2 %}{{ x }}{% endfor %}{% for x in message %}{{ x }}{% endfor %}{% for x in word %}{{ x }}.{% endfor %}{% for x in range(3, 0, -1) %}{{ x }}{% endfor %}",
    "{{ message.keys() | list }}{{ message.values() | list }}{{ message.items() | list }}{{ message | list }}{{ message.items() | length }}{{ 'role' in message.keys() }}{{ message | items is iterable }}{{ message.items() is sequence }}{{ range(5)[-1] }}{{ range(3) | list }}",
    "{% macro m(a) %}{{ varargs }}{{ kwargs }}{{ caller is defined }}{% endmacro %}{{ m(1) }}{{ self is defined }}{{ lipsum is defined }}{{ 1 is in [1] and 2 is in(list) or 'a' is in 'abc' }}",
    # filters of items
    "{{ {'b': 1, 'A': 2, 'c': 0} | dictsort }} {{ {'b': 1, 'A': 2} | dictsort(true) }} {{ {'b': 1, 'A': 2} | dictsort(by='value', reverse=true) }} {{ {10: 1, 2: 3} | dictsort }}",
    "{{ dicts | map(attribute='n') | list }} {{ dicts | map(attribute='u', default='?') | join(',') }} {{ list | map('upper') | list }} {{ dicts | map('tojson') | join }} {{ none | map('upper') | list }} {{ dicts | map(attribute='in.0') | list }}",
    "{{ dicts | selectattr('type', 'equalto', 'text') | list | length }}{{ dicts | rejectattr('u') | map(attribute='n') | list }}{{ dicts | selectattr('u', 'defined') | map(attribute='n') | list }}{{ list | reject('equalto', 'x') | list }}{{ mixed | select | list }}{{ mixed | select('string') | list }}{{ [1, 2] | select('in', [2]) | first }}",
    "{{ 'yes' if dicts | selectattr('no') else 'no' }} {{ [3, 1, 2] | sort }} {{ ['b', 'A', 'a'] | sort }} {{ ['b', 'A'] | sort(case_sensitive=true) }} {{ dicts | sort(attribute='type', reverse=true) | map(attribute='n') | list }} {{ [1, 'a', 1, 'A'] | unique | list }} {{ [3, 1] | min }}{{ [3, 1] | max }}[{{ [] | min }}]",
    "{{ list | reverse | list }}{{ 'abc' | reverse }}{{ dicts | join('-', attribute='n') }}{{ message | first }}{{ message | last }}{{ 'a\\n\\nb' | indent }}|{{ 'a\\nb' | indent(2, first=true) }}|{{ 'a\\n\\nb' | indent('> ', blank=true) }}",
    "{{ '42' | int }}{{ 'x' | int }}{{ ' -7 ' | int(1) }}{{ none | int(3) }}{{ 2.9 is integer }}{{ 'hELLO wORLD' | capitalize }}{{ 'hELLO wORLD'.capitalize() }}{{ \"it's a1b\".title() }}",
    # tests and methods with arguments
    "{{ 6 is divisibleby 3 }}{{ 7 is divisibleby(2) }}{{ 'a' is in ['a'] }}{{ 1 is not in [1] }}{{ n is eq 7 }}{{ n is gt 3 and n is le(7) }}{{ n is odd }}{{ n is even }}{{ 'x' is equalto list[0] }}{{ n is integer }}",
    "{{ 'abc'.startswith(('x', 'a')) }}{{ 'a,b,c'.split(sep=',', maxsplit=1) }}{{ 'aaa'.replace('a', 'b', 2) }}{{ 'aaa' | replace('a', 'b', 1) }}{{ '<{}|{}{{}}>'.format(n, list) }}{{ 'ab' * 2 }}{{ 2 * 'ab' }}[{{ 'ab' * -1 }}]",
    "{{ dict(a=1, b=list) }}{{ dict(message, role='x') }}{% set ns = namespace(message, z=1) %}{{ ns.role }}{{ ns.z }}{{ ns['z'] }}{% macro f(space) %}{% set space.z = 5 %}{{ space.z }}{% endmacro %}{{ f(ns) }}{{ ns.z }}",
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
# In the manner of templates that put a system message of their own before a first turn that is none.
OWN_SYSTEM = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou answer.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
# In the manner of templates that tell of tools, and write calls of them field by field or as JSON.
TOOLS = """{%- macro fields(of, told) %}
    {%- for key, value in of | items %}
        {%- if key in told %}{% continue %}{% endif %}
        {{- '\\n<' ~ key ~ '>' ~ (value | tojson | safe if value is mapping or value is sequence and value is not string else value | string) ~ '</' ~ key ~ '>' }}
    {%- endfor %}
{%- endmacro %}
{%- set kinds = {'string': 'str', 'integer': 'int'} %}
{%- set ns = namespace(last=messages | length - 1, names=[]) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' %}{% set ns.last = messages | length - 1 - loop.index0 %}{% break %}{% endif %}
{%- endfor %}
{%- if tools %}
    {{- '# Tools\\n' }}
    {%- for tool in tools | map(attribute='function') | sort(attribute='name') %}
        {%- set ns.names = ns.names + [tool.name] %}
        {{- '<tool>' ~ tool.name ~ fields(tool, ['name', 'parameters']) }}
        {%- for name, parameter in tool.parameters.properties | dictsort %}
            {{- '\\n- ' ~ name ~ ': ' ~ kinds.get(parameter.type, 'any') ~ (', needed' if name in (tool.parameters.required or [])) }}
        {%- endfor %}
        {{- '</tool>\\n' }}
    {%- endfor %}
    {{- ns.names ~ ' ' ~ ns.names | reject('equalto', 'sum') | join('/') }}
    {{- tools[0] | tojson(indent=4) }}{{ tools | tojson(separators=(',', ':')) }}
{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {%- for call in message.tool_calls %}
            {%- set call = call.function if call.function is defined else call %}
            {{- '<call>' ~ {'name': call.name, 'arguments': call.arguments} | tojson ~ '\\n' ~ call.arguments }}
            {%- for name, value in call.arguments.items() %}{{ name }}={{ value }}{{ ', ' if not loop.last else '' }}{% endfor %}
        {%- endfor %}
        {%- if loop.index0 < ns.last < messages | length %}(past){% endif %}
    {%- endif %}
    {%- if message.content is string %}{{ message.content }}{% else %}{{ message.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join }}{% endif %}
    {%- raw %}{{end}}
{% endraw %}
{%- endfor %}
"""


def tools():
    one = {"name": "sum", "description": "Adds <numbers>, it's \"exact\"", "strict": True, "parameters": {
        "type": "object", "required": ["b"],
        "properties": {"b": {"type": "integer", "minimum": 1}, "A": {"type": "string", "enum": ["\u00e9", "z"]}}}}
    other = {"name": "now", "parameters": {"type": "object", "properties": {}}, "returns": ["a", {"b": None}]}
    call = {"type": "function", "function": {"name": "sum", "arguments": {"b": 1, "A": "it's", "c": [1.5, None, {"d": False}]}}}
    return {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Add"}, {"type": "image"}, {"type": "text", "text": "!"}]},
            {"role": "assistant", "content": "", "tool_calls": [call, call]},
            {"role": "tool", "content": "2"}, {"role": "user", "content": "Again"},
            {"role": "assistant", "content": "So", "tool_calls": [call["function"]]},
        ],
        "tools": [{"type": "function", "function": one}, {"type": "function", "function": other}],
    }


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
own = conversation(True)
cases.append(case(OWN_SYSTEM, own))
cases.append(case(OWN_SYSTEM, own | {"messages": own["messages"][1:]}))
cases.append(case(TOOLS, tools()))
cases.append(case(TOOLS, conversation(True)))
path = pathlib.Path(__file__).with_name("cases.json")
made = json.dumps({"variables": V, "cases": cases}, indent=1, ensure_ascii=False) + "\n"
if "--check" in sys.argv:
    sys.exit(path.read_text() != made)
path.write_text(made)
print(f"{path}: {len(cases)} cases, jinja2 {jinja2.__version__}, transformers {transformers.__version__}")
