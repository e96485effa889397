"""Writes what Jinja itself makes of the templates here and of small ones: expected.json.

Run it with Python and jinja2 when a case is added: python3 generate.py
"""

import json
import pathlib

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
USER = {"role": "user", "content": "  Hi, what's <new> & \"odd\"?\n"}
ANSWER = {"role": "assistant", "content": "<think>\nlet me see\n</think>\n\nNothing \u00e9\U0001f600."}
CHATS = {
    "one": [USER],
    "system": [{"role": "system", "content": "Be brief. "}, USER],
    "turns": [USER, ANSWER, {"role": "user", "content": "And?"}],
    "all": [{"role": "system", "content": "Be brief. "}, USER, ANSWER, {"role": "user", "content": "And?"}],
    "odd": [USER, USER],
    "tool": [USER, {"role": "tool", "content": "42"}, {"role": "tool", "content": "43"}, USER],
}
VARS = {
    "n": 7, "f": 2.5, "s": "Hello World", "t": True, "x": None, "text": "a\nb\n\nc", "list": [3, 1, 2], "empty": [],
    "d": {"a": 1, "b": {"c": "x"}}, "people": [{"name": "B", "age": 3}, {"name": "a", "age": 1}, {"name": "C"}],
}
SMALL = r"""
{{ 1 + 2 * 3 }} {{ (1 + 2) * 3 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 3 ** 2 }} {{ 2 ** -1 }} {{ -2 ** 2 }}
{{ 1.0 }} {{ 1e20 }} {{ 0.00001 }} {{ 1.5e300 * 1e300 }} {{ 100000.5 }} {{ 10 / 5 }} {{ 3.7 // 1 }} {{ 1_000 }}
{{ 'a' ~ 1 ~ none ~ true ~ 2.0 ~ [1, 'b'] ~ {'k': 'v'} ~ (1,) }}
{{ 'a' 'b' "c" }} {{ 'it''s' }} {{ 'tab\tnl\\ \'q\' \x41 \u00e9' }}
{{ [1, 2.0, 'it\'s', "q\"", none, true, undefined_thing] }}
{{ s[0] }}{{ s[-1] }}|{{ s[1:4] }}|{{ s[::-1] }}|{{ s[-3:] }}|{{ list[::2] }}|{{ list[5:] }}|{{ list[-100:2] }}|{{ list[::-1][0] }}
{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 'a' == 1 }} {{ none == false }}
{{ 2 in list }} {{ 9 not in list }} {{ 'ell' in s }} {{ 'a' in d }} {{ 'z' not in d }} {{ 'x' in missing }}
{{ not true or true and false }} {{ not 1 == 2 }} {{ 0 or 'x' }} {{ '' and 1 }} {{ x or 'd' }} {{ not x is none }}
{{ 'yes' if t else 'no' }} {{ 'yes' if x }} {{ 1 if x else 2 if x else 3 }} {{ ('a' if t else 'b') ~ 'c' }}
{{ missing }}|{{ missing is defined }}|{{ missing | default('d') }}|{{ '' | default('d') }}|{{ '' | default('d', true) }}|{{ x | default('d') }}
{{ d.a }} {{ d['a'] }} {{ d.b.c }} {{ d.missing is defined }} {{ d.items() | list }} {{ d.get('a') }} {{ d.get('q', 'no') }} {{ d.keys() | list }} {{ d.values() | list }}
{{ n is number }} {{ f is float }} {{ n is integer }} {{ t is integer }} {{ t is number }} {{ t is boolean }} {{ s is string }} {{ d is mapping }} {{ list is sequence }} {{ s is sequence }} {{ d is iterable }} {{ n is iterable }} {{ x is none }} {{ x is not none }}
{{ n is odd }} {{ n is even }} {{ n is divisibleby 7 }} {{ n is divisibleby(3) }} {{ n is eq 7 }} {{ n is gt 3 }} {{ t is true }} {{ 1 is true }} {{ n is in [7] }} {{ n is sameas 7 }} {{ range is callable }}
{{ s | upper }} {{ s | lower }} {{ s | length }} {{ 'ab cd' | title }} {{ 'aB' | capitalize }} {{ s | replace('o', '0') }} {{ s | replace('o', '0', 1) }} {{ s | first }} {{ s | last }} {{ s | reverse }}
{{ list | sort }} {{ list | sort(reverse=true) }} {{ list | max }} {{ list | min }} {{ list | sum }} {{ list | join('-') }} {{ list | first }} {{ list | last }} {{ list | reverse | list }} {{ list | unique | list }} {{ [1, 1, 2] | unique | list }}
{{ people | map(attribute='name') | list }} {{ people | map(attribute='age', default=0) | list }} {{ people | map(attribute='name') | map('upper') | join(',') }} {{ people | sort(attribute='name') | map(attribute='name') | join }}
{{ people | selectattr('age') | list | length }} {{ people | selectattr('age', 'defined') | map(attribute='name') | list }} {{ people | selectattr('name', 'equalto', 'B') | list | length }} {{ people | rejectattr('name', '==', 'B') | map(attribute='name') | list }} {{ [0, 1, 2] | select | list }} {{ list | select('gt', 1) | list }} {{ list | reject('odd') | list }}
{{ d | tojson }} {{ {'b': [1, 2.5, none, true], 'a': '<é😀&\'"/>'} | tojson }} {{ [] | tojson }} {{ {} | tojson(indent=2) }}
{{ {'b': [1, {}], 'a': {'x': 'y'}} | tojson(indent=2) }}
{{ text | indent }}|{{ text | indent(2, true) }}|{{ text | indent(2, first=true, blank=true) }}
{{ '  a b ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ ' a '.strip() }}|{{ 'xax'.lstrip('x') }}|{{ 'xax'.rstrip('x') }}|
{{ 'a,b,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'a\nb'.splitlines() }} {{ ','.join(['a', 'b']) }}
{{ 'abc'.startswith('a') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abc'.find('c') }} {{ 'abc'.find('x') }} {{ 'abca'.count('a') }} {{ '12'.isdigit() }} {{ 'aB'.isupper() }} {{ 'abc'.removeprefix('a') }} {{ 'a-b'.replace('-', '+') }} {{ 'ab'.upper().lower().title() }}
{{ '3' | int }} {{ 'x' | int }} {{ 'x' | int(5) }} {{ 3.9 | int }} {{ '3.5' | float }} {{ 3 | float }} {{ 42 | string | length }} {{ -3 | abs }} {{ 2.5 | round }} {{ 2.567 | round(2) }} {{ 2.1 | round(0, 'ceil') }} {{ '<a>&"\'' | e }}
{{ d | dictsort }} {{ d | items | list }} {{ [1, 2] + [3] }} {{ [0] * 3 }} {{ 'ab' * 2 }} {{ (1, 2) }} {{ (1, 2)[1] }} {{ dict(a=1) }} {{ range(3) | list }} {{ range(1, 6, 2) | list }} {{ range(3, 0, -1) | list }}
{% for i in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}
{% for i in empty %}x{% else %}none{% endfor %} {% for i in list if i > 1 %}{{ i }}{{ loop.length }}{% else %}no{% endfor %} {% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {% for k in d %}{{ k }}{% endfor %} {% for c in 'ab' %}{{ c }}.{% endfor %} {% for i in missing %}{% else %}nothing{% endfor %}
{% for i in range(4) %}{{ loop.cycle('a', 'b') }}{% for j in [1] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{% set a = 1 %}{% for i in list %}{% set a = i %}{% endfor %}{{ a }} {% set ns = namespace(a=1, b='x') %}{% for i in list %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }} {% if true %}{% set q = 5 %}{% endif %}{{ q }} {% set u, v = 1, 2 %}{{ v }}{{ u }}
{% set b %}<{{ n }}>{% endset %}{{ b | length }}{{ b }} {% set c | upper %}abc{% endset %}{{ c }} {% filter upper %}x{{ s }}{% endfilter %} {% with a = 1, b = 2 %}{{ a + b }}{% endwith %}
{% macro m(a, b=2, c='z') %}[{{ a }}{{ b }}{{ c }}{{ n }}]{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m() }}{{ m(b=4, a=1) | length }}
{% macro r(n) %}{{ n }}{% if n > 0 %}{{ r(n - 1) }}{% endif %}{% endmacro %}{{ r(3) }}
{% raw %}{{ not }} {% this %}{% endraw %} {# a comment {{ x }} #}after
{%- set a = 1 -%}   x   {{- a -}}   y   {%- if true -%} z {%- endif -%} w
  {% if true %}
    indented
  {% endif %}
  {%+ if true %}kept{% endif +%}
{{ {'a': {'b': 1}}['a']['b'] }} {{ {'a': 1}.a }} {{ {1: 'x'}[1] }} {{ {true: 'x'}[1] }} {{ {'items': 1}['items'] }}
{{ (n > 5 and s or 'z')|lower }} {{ -n|abs }} {{ 'a' ~ 'b'|upper }} {{ 1 - 1 ~ 'x' }} {{ 2 * 'ab'|length }}
{{ missing.attribute }}
{{ missing + 'x' }}
{{ 'x' + 1 }}
{{ missing() }}
{{ n() }}
{{ list.append(4) }}
{{ raise_exception('no: ' ~ n) }}
{{ 1 / 0 }}
{{ [1, 'a'] | sort }}
{{ range(200000) | length }}
{{ 'a'.__class__ }}
{{ ''.__class__.__mro__[1].__subclasses__() }}
{% set n.a = 1 %}
{{ s.nosuch }}|{{ d.nosuch }}|{{ list[99] }}
{% if true %}
{{ }}
{{ 1 +
{% for %}{% endfor %}
{% nosuch %}
{{ 1 | nosuch }}
{{ 1 is nosuch }}
{% endif %}
{{ (1 }}
{% macro m( %}{% endmacro %}
{{ 'abc }}
{# no end
{{ 1 2 }}
{% macro m(a, b=2, c='z') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(*list) }}{{ m(1, *[5]) }}{{ m(*[1], c=4) }}{{ m(c=4, *[1, 2]) }}{{ m(**{'a': 1, 'c': 3}) }}{{ m(1, *[], **{'b': 'x'}) }}{{ m(*d) }} {{ range(*[1, 4]) | list }} {{ dict(**{'q': 1}) }} {{ m(*missing) }}
{% macro one(a) %}{{ a }}{% endmacro %}{{ [one][0](*['x']) }}{{ one(*'y') }}
{% macro one(a) %}{% endmacro %}{{ one(*[1, 2]) }}
{% macro one(a) %}{% endmacro %}{{ one(*n) }}
{% macro one(a) %}{% endmacro %}{{ one(**list) }}
{% macro one(a) %}{% endmacro %}{{ one(a=1, **{'a': 2}) }}
{% macro one(a) %}{% endmacro %}{{ one(**{1: 2}) }}
{% macro one(a) %}{% endmacro %}{{ one(*list, 1) }}
{% macro one(a) %}{% endmacro %}{{ one(**d, a=1) }}
{% macro one(a) %}{% endmacro %}{{ one(*list, *list) }}
"""


def main():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def raise_exception(message):
        raise TemplateError(message)

    env.globals["raise_exception"] = raise_exception
    cases = []

    def case(name, source, variables):
        one = {"name": name, "vars": variables}
        if name.startswith("small"):
            one["template"] = source
        try:
            template = env.from_string(source)
        except TemplateError:
            one["fails"] = "compile"
            cases.append(one)
            return
        try:
            one["want"] = template.render(**variables)
        except Exception as e:
            one["fails"] = "render"
            if type(e) is TemplateError:
                one["says"] = str(e)
        cases.append(one)

    for path in sorted(HERE.glob("*.jinja")):
        for chat, messages in CHATS.items():
            variables = {"messages": messages, "add_generation_prompt": chat != "turns", "bos_token": "<s>", "eos_token": "</s>"}
            case(f"{path.name} {chat}", path.read_text(), variables)
    lines = SMALL.strip("\n").split("\n")
    block = lines.index("  {% if true %}")
    small = lines[:block] + ["\n".join(lines[block : block + 4])] + lines[block + 4 :]
    for i, source in enumerate(small):
        case(f"small {i}", source, VARS)
    (HERE / "expected.json").write_text(json.dumps(cases, indent=1) + "\n")


main()
