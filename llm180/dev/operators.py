"""The changes that ``llm180 strength`` makes to a solution: cosmic-ray's operators, and some of its own.

An operator names the positions in a parso tree that it can change, and changes
one. Those here have cosmic-ray's interface and make the errors that it lacks: a
deleted line, a forgotten condition, scale, keyword argument or ``detach``.
"""

from __future__ import annotations

import ast
import functools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import parso
from cosmic_ray.exceptions import CosmicRayTestingException
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator

# Of cosmic-ray's operators, those whose mutants are the hard ones: of a comparison the next ones and the
# negation, of arithmetic the near ones. `+` into `>>` fails loudly in any check and would flatter the rate.

_NEAR = {
    "ReplaceBinaryOperator": "Add_Sub Sub_Add Mul_Div Mul_Add Div_Mul Div_FloorDiv FloorDiv_Div FloorDiv_Mul "
    "Mod_FloorDiv Mod_Mul Pow_Mul RShift_LShift LShift_RShift BitOr_BitAnd BitAnd_BitOr BitXor_BitOr",
    "ReplaceComparisonOperator": "Eq_NotEq Eq_LtE Eq_GtE NotEq_Eq NotEq_Lt NotEq_Gt Lt_LtE Lt_NotEq Lt_GtE "
    "LtE_Lt LtE_Eq LtE_Gt Gt_GtE Gt_NotEq Gt_LtE GtE_Gt GtE_Eq GtE_Lt Is_IsNot IsNot_Is",
    "ReplaceUnaryOperator": "Delete_USub Delete_Not Delete_Invert",
}
COSMIC_RAY = [
    *(f"{family}_{pair}" for family, pairs in _NEAR.items() for pair in pairs.split()),
    "AddNot",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ExceptionReplacer",
    "NumberReplacer",
    "RemoveDecorator",
    "ZeroIterationForLoop",
]

ARITHMETIC = {"arith_expr", "term", "shift_expr", "and_expr", "expr", "xor_expr", "power"}
CALLS = {"atom_expr", "power"}
# Calls whose first two arguments may change places, or whose change of places is another mutant already.
_SYMMETRIC = {
    *("max", "min", "maximum", "minimum", "add", "multiply", "equal", "logaddexp", "hypot", "gcd", "lcm"),
    *("isclose", "allclose", "isinstance", "issubclass", "range", "dot_product", "array_equal", "broadcast_shapes"),
}
# What leaves a value of the same kind, so that the call can be forgotten.
_SAME_KIND = {
    *("abs", "sqrt", "rsqrt", "exp", "log", "log2", "tanh", "sigmoid", "relu", "gelu", "softmax", "square"),
    *("sorted", "reversed", "set", "deepcopy", "copy", "clone", "detach", "contiguous", "float", "double", "int"),
    *("round", "floor", "ceil", "lower", "upper", "strip", "lstrip", "rstrip", "casefold", "flatten", "ravel"),
    *("squeeze", "transpose", "t", "conj", "tril", "triu", "cumsum", "softplus", "log1p", "expm1"),
}
_MODULES = {"math", "copy", "np", "torch", "F", "jnp"}  # whose functions take the value as an argument
_NO_BEHAVIOR = {"desc", "leave", "unit", "disable", "device", "stacklevel"}  # keywords of progress bars, devices
_EINSUM = re.compile(r"""^(['"])([A-Za-z., ]*)->([A-Za-z. ]*)\1$""")


class _Own(Operator):
    """An operator of this module: ``changes(node)`` gives the text of each mutant of ``node``."""

    def changes(self, node: Any) -> Iterable[str]:
        raise NotImplementedError

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        for _ in self.changes(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        return parso.parse(list(self.changes(node))[index])


def _code(nodes: Sequence[Any]) -> str:
    return "".join(n.get_code() for n in nodes).strip()


class DeleteStatement(_Own):
    """A statement, simple or compound, becomes ``pass``."""

    def changes(self, node: Any) -> Iterable[str]:
        if node.type in ("for_stmt", "while_stmt", "with_stmt", "try_stmt", "if_stmt"):
            body = [c for c in node.children if c.type in ("suite", "simple_stmt")]
            if len(body) == 1 and body[0].type == "suite":
                inner = [c for c in body[0].children if c.type != "newline"]
                last = inner[-1].children[0] if inner[-1].type == "simple_stmt" else inner[-1]
                if len(inner) == 1 or last.type == "raise_stmt":  # deleting what it holds is the same mutant
                    return
            if body and body[0].type != "simple_stmt":
                yield "pass\n"
        elif node.type == "simple_stmt":
            statement = node.children[0]
            if len(node.children) > 2 or statement.type in ("string", "strings", "import_name", "import_from"):
                return
            if statement.type in ("global_stmt", "nonlocal_stmt", "assert_stmt"):
                return
            if statement.get_code(include_prefix=False) in ("pass", "..."):
                return
            if statement.type == "expr_stmt" and statement.children[1].type == "annassign":
                if len(statement.children[1].children) == 2:  # a type without a value
                    return
            if statement.type == "return_stmt" or statement.get_code(include_prefix=False) == "return":
                suite = node.parent
                if suite.type == "suite" and suite.children[-1] is node and suite.parent.type == "funcdef":
                    return  # the same as returning None
            yield "pass\n"

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("def f():\n    g()\n", "def f():\n    pass\n"),)


class ReturnNone(_Own):
    """``return value`` becomes ``return None``."""

    def changes(self, node: Any) -> Iterable[str]:
        if node.type == "return_stmt" and _code(node.children[1:]) != "None":
            yield "return None"

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("def f():\n    return 1\n", "def f():\n    return None\n"),)


class RaisedType(_Own):
    """Another exception is raised than the one that is promised."""

    def changes(self, node: Any) -> Iterable[str]:
        if node.type == "raise_stmt":
            raised = node.children[1]
            name = raised.children[0] if raised.type in CALLS else raised
            if name.type == "name" and name.value[:1].isupper():
                text = _code(node.children)
                yield text.replace(name.value, CosmicRayTestingException.__name__, 1)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("raise ValueError('x')", "raise CosmicRayTestingException('x')"),)


class ReplaceMembership(_Own):
    """``in`` becomes ``not in``, and back."""

    def changes(self, node: Any) -> Iterable[str]:
        if node.type == "comparison":
            for i in range(1, len(node.children), 2):
                word = " ".join(node.children[i].get_code().split())
                if word in ("in", "not in"):
                    other = " not in" if word == "in" else " in"
                    yield _code(node.children[:i]) + other + " " + _code(node.children[i + 1 :])

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("x in y", "x not in y"), Example("x not in y", "x in y"))


class DropOperand(_Own):
    """One operand of ``and``, ``or`` or arithmetic is left out: a missing condition, scale or bias."""

    def changes(self, node: Any) -> Iterable[str]:
        if node.type in ("and_test", "or_test"):
            for i in range(0, len(node.children), 2):
                yield _code(node.children[: max(i - 1, 0)] + node.children[i + 1 if i else 2 :])
        elif node.type in ARITHMETIC:
            for i in range(1, len(node.children) - 1, 2):
                if node.children[i].type == "operator" and node.children[i].value != "@":
                    yield _code(node.children[:i] + node.children[i + 2 :])

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("a and b", "b"), Example("a and b", "a", occurrence=1), Example("x / d + b", "x / d"))


class ReplaceProduct(_Own):
    """``a @ b`` becomes ``b @ a``."""

    def changes(self, node: Any) -> Iterable[str]:
        if node.type == "term":
            parts = node.children
            for i in range(1, len(parts) - 1, 2):
                if parts[i].value == "@":
                    ends = _code(parts[: i - 1]), _code(parts[i + 2 :])
                    yield f"{ends[0]} {_code(parts[i + 1 : i + 2])} @ {_code(parts[i - 1 : i])} {ends[1]}".strip()

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("a @ b", "b @ a"),)


class ReplaceAssignment(_Own):
    """``+=`` becomes ``=`` and ``-=``; the same for the other augmented assignments."""

    _OTHERS = {"+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=", "//=": "*=", "|=": "&=", "&=": "|="}

    def changes(self, node: Any) -> Iterable[str]:
        if node.type == "expr_stmt" and len(node.children) == 3:
            mark = getattr(node.children[1], "value", "")
            if mark.endswith("=") and mark != "=":
                for other in filter(None, ("=", self._OTHERS.get(mark))):
                    yield f"{_code(node.children[:1])} {other} {_code(node.children[2:])}"

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("x += 1", "x = 1"), Example("x += 1", "x -= 1", occurrence=1))


class DropCondition(_Own):
    """The ``if`` of a comprehension is left out, or turned round."""

    def changes(self, node: Any) -> Iterable[str]:
        if node.type == "comp_if":
            condition, rest = _code(node.children[1:2]), _code(node.children[2:])
            yield f"if True {rest}".rstrip()
            yield f"if not ({condition}) {rest}".rstrip()

    def mutate(self, node: Any, index: int) -> Any:
        text = list(self.changes(node))[index]
        return parso.python.tree.Name(text, node.start_pos, node.get_first_leaf().prefix)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("[x for x in y if x]", "[x for x in y if True]"),)


class DropArgument(_Own):
    """A keyword argument of a call is left out, so that its default holds: ``axis=1``, ``dtype=...``."""

    def changes(self, node: Any) -> Iterable[str]:
        if node.type == "trailer" and len(node.children) == 3 and node.children[0].value == "(":
            inside = node.children[1]
            arguments = inside.children[::2] if inside.type == "arglist" else [inside]
            for dropped in arguments:
                if dropped.type == "argument" and getattr(dropped.children[1], "value", "") == "=":
                    if dropped.children[0].value not in _NO_BEHAVIOR:
                        yield "(" + ", ".join(_code([a]) for a in arguments if a is not dropped) + ")"

    def mutate(self, node: Any, index: int) -> Any:
        return parso.python.tree.Name(list(self.changes(node))[index], node.start_pos)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("x.sum(a, axis=1)", "x.sum(a)"),)


class SwapArguments(_Own):
    """The first two positional arguments of a call change places."""

    def changes(self, node: Any) -> Iterable[str]:
        if node.type == "trailer" and len(node.children) == 3 and node.children[0].value == "(":
            inside = node.children[1]
            if inside.type != "arglist" or called(node) in _SYMMETRIC:
                return
            arguments = inside.children[::2]
            texts = [_code([a]) for a in arguments]
            if all(a.type not in ("argument", "star_expr") for a in arguments[:2]) and texts[0] != texts[1]:
                yield "(" + ", ".join([texts[1], texts[0], *texts[2:]]) + ")"

    def mutate(self, node: Any, index: int) -> Any:
        return parso.python.tree.Name(list(self.changes(node))[index], node.start_pos)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("f(a, b, c)", "f(b, a, c)"),)


def called(trailer: Any) -> str:
    """The last name of what a call's brackets follow: ``f`` of ``f(...)`` and of ``x.f(...)``."""
    before = trailer.get_previous_sibling()
    leaf = before.get_last_leaf() if before is not None else None
    return getattr(leaf, "value", "")


class ForgetCall(_Own):
    """A call that leaves a value of the same kind is forgotten: ``x.detach()``, ``sqrt(d)``, ``x.T``."""

    def changes(self, node: Any) -> Iterable[str]:
        if node.type not in CALLS:
            return
        parts = node.children
        end = next((i for i, p in enumerate(parts) if i and p.type != "trailer"), len(parts))
        if end < len(parts):  # a power: its operator and exponent stay
            return
        for i in range(1, end):
            if parts[i].children[0].value == ".":
                name = parts[i].children[1].value
                call = parts[i + 1] if i + 1 < end and parts[i + 1].children[0].value == "(" else None
                if name in ("T", "mT") and call is None:
                    yield _code(parts[:i] + parts[i + 1 :])
                elif name in _SAME_KIND and call is not None and len(call.children) == 2:
                    yield _code(parts[:i] + parts[i + 2 :])
        for i in range(1, end):
            if parts[i].children[0].value == "(" and len(parts[i].children) == 3 and called(parts[i]) in _SAME_KIND:
                plain = i == 1 or (i == 2 and parts[0].type == "name" and parts[0].value in _MODULES)
                inside = parts[i].children[1]
                first = inside.children[0] if inside.type == "arglist" else inside
                if plain and first.type not in ("argument", "star_expr"):
                    yield f"({_code([first])})" + "".join(p.get_code() for p in parts[i + 1 :])

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("x.detach().sum()", "x.sum()"), Example("math.sqrt(d)", "(d)"), Example("x.T", "x"))


class ShortenRange(_Own):
    """``range(n)`` becomes ``range(n - 1)``."""

    def changes(self, node: Any) -> Iterable[str]:
        if node.type in CALLS and node.children[0].type == "name" and node.children[0].value == "range":
            inside = node.children[1].children[1]
            arguments = inside.children[::2] if inside.type == "arglist" else [inside]
            texts = [_code([a]) for a in arguments]
            stop = 0 if len(texts) == 1 else 1
            if arguments[stop].type not in ("number", "argument", "operator"):
                yield "range(" + ", ".join([*texts[:stop], f"{texts[stop]} - 1", *texts[stop + 1 :]]) + ")"

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("range(0, n)", "range(0, n - 1)"),)


class ScaleFloat(_Own):
    """A float is doubled. Very small ones, which guard a division, are left to NumberReplacer."""

    def changes(self, node: Any) -> Iterable[str]:
        if node.type == "number" and isinstance(value := ast.literal_eval(node.value), float):
            if 1e-3 <= abs(value) < math.inf:
                yield repr(2 * value)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("x = 0.5", "x = 1.0"),)


class ReplaceEinsum(_Own):
    """The output's first two letters of an einsum change places, or its last letter goes."""

    def changes(self, node: Any) -> Iterable[str]:
        match = _EINSUM.match(node.value) if node.type == "string" else None
        if match:
            quote, inputs, out = match.groups()
            letters = out.replace(" ", "")
            if len(letters) > 1 and "." not in letters[:2]:
                yield f"{quote}{inputs}->{letters[1]}{letters[0]}{letters[2:]}{quote}"
            if letters and letters[-1] != ".":
                yield f"{quote}{inputs}->{letters[:-1]}{quote}"

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("'ij,jk->ik'", "'ij,jk->ki'"),)


OWN: list[type[_Own]] = [
    DeleteStatement,
    ReturnNone,
    RaisedType,
    ReplaceMembership,
    DropOperand,
    ReplaceProduct,
    ReplaceAssignment,
    DropCondition,
    DropArgument,
    SwapArguments,
    ForgetCall,
    ShortenRange,
    ScaleFloat,
    ReplaceEinsum,
]


@functools.cache
def operators() -> dict[str, Operator]:
    """Every operator by name, cosmic-ray's first."""
    found: dict[str, Operator] = {name: get_operator(f"core/{name}")() for name in COSMIC_RAY}
    found.update({cls.__name__: cls() for cls in OWN})
    return found
