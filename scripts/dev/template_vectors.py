#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/unit/chat/vectors/*.jsonl: templates with what jinja2 makes of them.

  features.jsonl  expressions and statements, one feature each
  families.jsonl  tests/unit/chat/templates/*.jinja with conversations (system, tools, results, thinking, images)
  fuzz.jsonl      templates and contexts from a grammar, seeded

The environment is the one that transformers builds for chat templates. A line is {"t": template or "f": file,
"c": variables, "o": text} or, where jinja2 fails, {"...", "e": kind of failure}.

usage: template_vectors.py [N]   (N fuzz vectors, default 8000; wants jinja2 3.1)
"""
import copy
import datetime
import json
import pathlib
import random
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests/unit/chat"
NOW = datetime.datetime(2025, 3, 9, 14, 5, 7)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("same"), [], [], body).set_lineno(line)

    def same(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: NOW.strftime(f)
    return env


ENV = environment()


def expect(template, context):
    try:
        return {"o": ENV.from_string(template).render(**copy.deepcopy(context))}  # indent changes a list
    except Exception as e:  # whatever fails: the test wants a failure
        return {"e": type(e).__name__}


def write(name, rows):
    (ROOT / "vectors").mkdir(exist_ok=True)
    with open(ROOT / "vectors" / name, "w") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{name}: {len(rows)} vectors, {sum('e' in r for r in rows)} of them errors")


# ---- fuzz: a grammar of templates

CONTEXTS = [
    {"a": 3, "b": -2, "f": 2.5, "s": "Hello World", "u": "é ß日本", "l": [3, 1, 2], "d": {"x": 1, "y": "two"},
     "n": None, "t": True, "m": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": " yes\n"}]},
    {"a": 0, "b": 7, "f": -0.75, "s": "", "u": "tab\tq'\"", "l": [], "d": {}, "n": None, "t": False, "m": []},
    {"a": 10, "b": 4, "f": 1e17, "s": "  a,b,,c ", "u": "ÀéÎ-x", "l": ["b", "A", "c", "a"],
     "d": {"k": [1, {"z": None}], "B": 2, "a": True}, "n": None, "t": True,
     "m": [{"role": "system", "content": "S"}, {"role": "user", "content": "q", "n": 2},
           {"role": "tool", "content": [{"type": "text", "text": "x"}, {"type": "image"}]}]},
]


KEYS = ["0", "1.5", "'x'", "none", "(1, 2)", "true", "s"]


class Grammar:
    def __init__(self, rng):
        self.r = rng

    def one(self, *options):
        return self.r.choice(options)

    def name(self):
        return self.one("a", "b", "f", "s", "u", "l", "d", "n", "t", "m", "missing", "m[0]", "m[1]", "d.x", "m[-1].role",
                        "m[0].content", "l[0]", "s[0]")

    def literal(self):
        return self.one("0", "1", "2", "-1", "7", "2.5", "1e3", "'a'", "''", "'l'", '"x y"', "'\\n'", "'Hello'", "true",
                        "false", "none", "[]", "[1, 2]", "['a', 'B']", "{}", "{'x': 1}", "(1, 2)", "(1,)", "()", "1_000", "'o'")

    def number(self, k):
        return self.one("a", "b", "f", "1", "2", "3", "0", "-4", "l|length", "s|length", f"({self.expr(k)})")

    def args(self, k, n):
        return ", ".join(self.expr(k) for _ in range(self.r.randrange(n + 1)))

    def filtered(self, k):
        e = self.atom(k)
        f = self.one("trim", "length", "count", "upper", "lower", "title", "capitalize", "first", "last", "list", "string",
                     "int", "float", "abs", "reverse|list", "sort", "unique|list", "tojson", "tojson(indent=2)", "safe", "escape",
                     "e", "sum", "min", "max", "items|list", "dictsort", "default('D')", "d('D', true)", "join", "join(', ')",
                     "replace('l', 'L')", "replace('a', '', 1)", "indent", "indent(2, true)", "round", "round(1)",
                     "map('upper')|list", "map(attribute='role')|list", "map(attribute='role')|join('/')",
                     "select|list", "reject('none')|list", "selectattr('role', 'equalto', 'user')|list",
                     "rejectattr('n', 'defined')|list", "selectattr('n')|list", "sort(reverse=true)",
                     "sort(attribute='role')", "dictsort(by='value')", "int(9)", "float(1.5)", "round(0, 'ceil')",
                     "round(1, 'floor')", "trim('lH ')", "reverse|join", "join(attribute='role')", "unique|join",
                     "min(attribute='role')", "map('string')|join('|')", "tojson(separators=(',', ':'))", "tojson(sort_keys=true)",
                     "select('string')|list", "select('number')|sum", "map('length')|list", "default",
                     f"default({self.expr(k)})", f"join({self.expr(k)})", "sort(case_sensitive=true)", "list|last", "list|first")
        return f"{e}|{f}"

    def method(self, k):
        e = self.atom(k)
        m = self.one("split()", "split(',')", "split('l', 1)", "strip()", "lstrip()", "rstrip()", "strip('Hd')",
                     "startswith('H')", "endswith('d')", "startswith(('a', 'H'))", "replace('o', '0')", "upper()", "lower()",
                     "title()", "capitalize()", "find('l')", "count('l')", "index('l')", "rfind('o')", "items()", "keys()", "values()",
                     "get('x')", "get('q', 5)", "get('x', 1)", "items()|list", "keys()|list", "join(['a', 'b'])", "rsplit('o', 1)",
                     "splitlines()", "append(1)", "pop()", "removeprefix('He')", "isdigitx()", "format(1, 2)", "partition('o')",
                     "count(1)", "index(2)", "isalpha()", "isspace()", "nothing()", "isupper()", "islower()", "lower().title()")
        return f"{e}.{m}"

    def test(self, k):
        t = self.one("defined", "undefined", "none", "string", "mapping", "sequence", "iterable", "number", "integer", "float",
                     "boolean", "true", "false", "even", "odd", "divisibleby 2", "divisibleby(3)", "equalto 3", "eq 'a'",
                     "in l", "in 'Hello'", "in [1, 'a', none]", "sameas none" if self.r.random() < 0 else "none", "lower", "upper",
                     "callable", "ne 1", "gt 1", "lt 2", "ge 0", "le a", "==('a')" if self.r.random() < 0 else "eq(none)")
        return f"{self.atom(k)} is {self.one('', '', 'not ')}{t}"

    def sliced(self, k):
        b = lambda: self.one("", "", "0", "1", "2", "-1", "-2", "5", "a", "100", "-100")
        s = f"{b()}:{b()}" + self.one("", "", ":", ":-1", ":2", ":-2")
        return f"{self.one('s', 'l', 'u', 'm', 'd', '(1, 2, 3)', 'range(5)', 'missing')}[{s}]" + self.one("", "", "|list", "|length")

    def atom(self, k):
        if k <= 0:
            return self.one(self.name(), self.name(), self.literal())
        return self.one(self.name, self.literal, lambda: f"({self.expr(k - 1)})", lambda: f"[{self.args(k - 1, 3)}]",
                        lambda: f"{self.name()}[{self.expr(k - 1)}]", lambda: f"{self.name()}.{self.one('x', 'y', 'role', 'q', 'z')}",
                        lambda: "{" + f"'q': {self.expr(k - 1)}, {self.one(*KEYS)}: 2" + "}",
                        lambda: f"range({self.number(k - 1)})|list", lambda: f"dict(a={self.expr(k - 1)})")()

    def expr(self, k):
        if k <= 0:
            return self.atom(0)
        j = k - 1
        return self.one(
            lambda: self.atom(k), lambda: self.filtered(j), lambda: self.filtered(j), lambda: self.filtered(j), lambda: self.method(j),
            lambda: self.method(j), lambda: self.test(j), lambda: self.sliced(j), lambda: self.test(j),
            lambda: f"{self.expr(j)} {self.one('+', '-', '*', '/', '//', '%', '**')} {self.expr(j)}",
            lambda: f"{self.number(j)} {self.one('+', '-', '*', '/', '//', '%', '**')} {self.number(j)}",
            lambda: f"{self.expr(j)} ~ {self.expr(j)}", lambda: f"{self.expr(j)} ~ {self.expr(j)} ~ {self.expr(j)}",
            lambda: f"{self.expr(j)} {self.one('==', '!=', '<', '>', '<=', '>=')} {self.expr(j)}",
            lambda: f"{self.number(j)} < {self.number(j)} <= {self.number(j)}",
            lambda: f"{self.expr(j)} {self.one('in', 'not in')} {self.expr(j)}",
            lambda: f"{self.expr(j)} {self.one('and', 'or')} {self.expr(j)}", lambda: f"not {self.expr(j)}",
            lambda: f"{self.expr(j)} if {self.expr(j)} else {self.expr(j)}", lambda: f"{self.expr(j)} if {self.expr(j)}",
            lambda: f"-{self.atom(j)}", lambda: f"'%s|%5d|%-4s|%.2f' % ({self.expr(j)}, {self.number(j)}, 'q', f)",
            lambda: f"'{{}}-{{}}|{{x}}'.format({self.expr(j)}, 1, x=2)" if self.r.random() < .2 else self.filtered(j))()

    def text(self):
        return self.one("x", " ", "\n", "  \n", "text\n", "\n  ", "<|im_start|>", "é\n", "\t", "{ }", "%}", "a b")

    def tag(self, inside):
        return "{%" + self.one("", "", "", "-", "+") + f" {inside} " + self.one("", "", "", "-", "+") + "%}"

    def out(self, e):
        return "{{" + self.one("", "", "-") + f" {e} " + self.one("", "", "-") + "}}"

    def statement(self, k, loop):
        if k <= 0:
            return self.one(self.text, lambda: self.out(self.expr(2)))()
        j = k - 1
        body = lambda inside=loop: self.body(j, inside)
        return self.one(
            self.text, lambda: self.out(self.expr(2)), lambda: self.out(self.expr(3)), lambda: self.out(self.expr(2)),
            lambda: self.tag(f"if {self.expr(2)}") + body() + self.one("", self.tag(f"elif {self.expr(2)}") + body())
            + self.one("", self.tag("else") + body()) + self.tag("endif"),
            lambda: self.tag(f"for i in {self.one('l', 'm', 'd', 's', 'range(3)', 'm[1:]', 'l|sort', 'missing', self.expr(1))}"
                             + self.one("", "", f" if {self.one('i', 'i is string', 'i != 1', self.expr(1))}"))
            + body(True) + self.one("", "", self.tag("else") + body()) + self.tag("endfor"),
            lambda: self.tag("for k, v in d.items()") + "{{ k }}={{ v }};" + body(True) + self.tag("endfor"),
            lambda: self.tag("for i in l") + self.out("loop." + self.one("index", "index0", "first", "last", "length", "revindex",
                             "revindex0", "previtem", "nextitem", "cycle('a', 'b')", "changed(i)", "depth"))
            + self.one("", self.tag(self.one("break", "continue", "if loop.index > 1") ) if False else "")
            + self.tag("endfor"),
            lambda: self.tag(f"set {self.one('z', 'x', 'g')} = {self.expr(2)}"),
            lambda: "{{ a }}{{ s }}" + self.tag(f"set {self.one('a', 's')} = {self.expr(2)}"),
            lambda: self.tag("set p, q = " + self.one("1, 2", "(a, b)", "l", "'xy'", "d")) + "{{ p }}{{ q }}",
            lambda: self.tag("set z") + body() + self.tag("endset") + "{{ z|length }}",
            lambda: self.tag("set ns = namespace(c=0)") + self.tag("for i in l") + self.tag("set ns.c = ns.c + 1") + self.tag("endfor") + "{{ ns.c }}",
            lambda: self.tag("macro w(x, y='d', z=a)") + "[{{ x }},{{ y }},{{ z }}]" + body(False) + self.tag("endmacro")
            + self.out(self.one("w(1)", "w()", "w(1, y=2)", "w(z=3, x=s)", "w(1, 2, 3)", "w(1, 2, 3, 4)", "w(q=1)", "w(*l)", "w(**d)")),
            lambda: self.tag("filter " + self.one("upper", "trim", "replace('a', 'b')", "indent(1)|upper")) + body() + self.tag("endfilter"),
            lambda: self.tag("with z = a") + body() + self.out("z") + self.tag("endwith"),
            lambda: self.tag("generation") + body(False) + self.tag("endgeneration"),
            lambda: "{#" + self.one("", "-") + " note " + self.one("", "-") + "#}" + self.text(),
            lambda: self.tag("raw") + "{{ x }}" + self.text() + self.tag("endraw"),
            lambda: self.tag(f"if {self.expr(1)}") + self.tag(self.one("break", "continue")) + self.tag("endif") if loop else self.text(),
            lambda: self.tag("call w(1)") + body(False) + self.tag("endcall") if self.r.random() < .2 else self.text())()

    def body(self, k, loop):
        return "".join(self.one(self.text, lambda: self.statement(k, loop))() for _ in range(self.r.randrange(1, 4)))

    def template(self):
        if self.r.random() < .45:
            return self.out(self.expr(self.one(1, 2, 2, 3)))
        return "".join(self.one(self.text, lambda: self.statement(2, False), lambda: self.statement(2, False))()
                       for _ in range(self.r.randrange(1, 4)))


def unstable(template, row):
    """Addresses of objects, integers beyond 64 bits, and what only jinja2's compiler knows are no vectors."""
    text = row.get("o", "")
    if " at 0x" in text or "<bound method" in text or "<built-in" in text or "<class" in text or "<function" in text or "<jinja2" in text:
        return True
    digits = 0
    for c in text:
        digits = digits + 1 if c.isdigit() else 0
        if digits > 18:
            return True
    if " - " in template and ("items()" in template or "keys()" in template):
        return True  # differences of sets
    return row.get("e") in ("TemplateAssertionError", "OverflowError", "RecursionError", "MemoryError") or "e+" in text and "**" in template


def fuzz(n, seed=20250309):
    rng = random.Random(seed)
    rows, seen, errors = [], set(), 0
    while len(rows) < n:
        t = Grammar(rng).template()
        k = rng.randrange(len(CONTEXTS))
        if t in seen or len(t) > 400:
            continue
        seen.add(t)
        if "**" in t and ("2.5" in t or "f" in t):  # complex numbers
            continue
        row = {"t": t, "c": k, **expect(t, CONTEXTS[k])}
        if "e" in row and errors * 4 > n or unstable(t, row) or len(row.get("o", "")) > 1500:
            continue
        errors += "e" in row
        rows.append(row)
    return [{"contexts": CONTEXTS}] + rows


# ---- features

def features():
    rows = json.loads((ROOT / "templates/features.json").read_text())
    return [{"t": t, "c": c, **expect(t, c)} for t, c in ((r, {}) if isinstance(r, str) else r for r in rows)]


def families():
    requests = json.loads((ROOT / "templates/conversations.json").read_text())
    rows = []
    for path in sorted((ROOT / "templates").glob("*.jinja")):
        for name, request in requests.items():
            variables = {"messages": None, "tools": None, "documents": None, "add_generation_prompt": False,
                         "bos_token": "<s>", "eos_token": "</s>", **request}
            rows.append({"f": path.name, "n": name, **expect(path.read_text(), variables)})
    return rows


def main():
    write("fuzz.jsonl", fuzz(int(sys.argv[1]) if len(sys.argv) > 1 else 8000))
    write("features.jsonl", features())
    write("families.jsonl", families())


main()
