"""Templates and `gen` of version 1 documents, expanded by plain replacement.

Owns the little language of the specification that we accept: `{{name}}` in addresses, and in `gen`
also whole-number arithmetic over the loop variables. Documents come from strangers, so nothing here
evaluates text as code or hands it to a template engine; whatever is not in the language is refused.

Follows https://fsspec.github.io/kerchunk/spec.html, version 1, sections "templates" and "gen".
"""

from __future__ import annotations

import ast
import itertools
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .findings import Finding, Reporter

__all__ = ["expand_gen", "expand_url"]

_NAME = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")
_EXPRESSION = re.compile(r"\{\{(.*?)\}\}")
_MAX_GENERATED = 1_000_000
"""References that one `gen` may make; a few bytes of text could otherwise ask for any number."""
_MAX_EXPRESSION = 200
"""Characters of one expression; deep nesting would exhaust the parser's stack."""
_MAX_NUMBER = 2**63 - 1

_OPERATORS: Mapping[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class _Refused(ValueError):
    """Text is not in the language; the message is what the language has instead."""


def expand_url(url: str, templates: Mapping[str, str], report: Reporter) -> str:
    """Replace `{{name}}` in an address.

    Parameters
    ----------
    url
        Address as in the document.
    templates
        Name to text. Without templates braces are plain characters, as in fsspec.
    report
        Takes what cannot be expanded.
    """
    if not templates or "{{" not in url:
        return url
    try:
        return _replace_names(url, templates)
    except _Refused as error:
        report(
            Finding(
                "template",
                "structure",
                "a template cannot be expanded",
                None,
                repr(url[:80]),
                str(error),
            )
        )
        return url


def expand_gen(gen: list, templates: Mapping[str, str], report: Reporter) -> dict[str, list]:
    """Make the references that the `gen` member of a document describes.

    Returns
    -------
    refs
        Key to [url] or [url, offset, length].
    """
    refs: dict[str, list] = {}
    for row, rule in enumerate(gen):
        try:
            _check_rule(rule)
            refs.update(_run_rule(rule, templates))
        except _Refused as error:
            report(
                Finding(
                    "gen",
                    "structure",
                    "generated references cannot be expanded",
                    f"gen[{row}]",
                    repr(rule)[:80],
                    str(error),
                )
            )
    return refs


def _replace_names(text: str, templates: Mapping[str, str]) -> str:
    def replace(match: re.Match) -> str:
        if match[1] not in templates:
            raise _Refused(f"one of the templates {sorted(templates)[:5]}")
        value = templates[match[1]]
        if "{{" in value or "}}" in value:
            raise _Refused("{{name}} of a template that is plain text itself")
        return value

    rest = _NAME.sub("", text)
    if "{{" in rest or "}}" in rest or "{%" in rest:
        raise _Refused("no braces but {{name}} of a template")
    return _NAME.sub(replace, text)


# ---- gen


def _check_rule(rule: Any) -> None:
    """Check what the schema says of one member of `gen`."""
    fields = {"key", "url", "offset", "length"}
    if not isinstance(rule, Mapping):
        raise _Refused("an object")
    if not {"key", "url", "dimensions"} <= rule.keys() <= fields | {"dimensions"}:
        raise _Refused("key, url, dimensions, and offset with length")
    if ("offset" in rule) != ("length" in rule):
        raise _Refused("offset and length together")
    if not all(isinstance(rule[name], str) for name in fields & rule.keys()):
        raise _Refused("text for key, url, offset and length")
    dimensions = rule["dimensions"]
    if not isinstance(dimensions, Mapping) or not dimensions:
        raise _Refused("at least one dimension")
    for values in dimensions.values():
        _check_dimension(values)


def _check_dimension(values: Any) -> None:
    if isinstance(values, list):
        numbers = values
    elif isinstance(values, Mapping) and {"stop"} <= values.keys() <= {"start", "stop", "step"}:
        numbers = list(values.values())
    else:
        numbers = [None]
    if not all(type(number) is int for number in numbers):
        raise _Refused("dimensions as lists of whole numbers or {start, stop, step}")
    if isinstance(values, Mapping) and values.get("step") == 0:
        raise _Refused("a step other than 0")


def _run_rule(rule: Mapping[str, Any], templates: Mapping[str, str]) -> dict[str, list]:
    dimensions: dict[str, Sequence[int]] = {
        name: values
        if isinstance(values, list)
        else range(values.get("start", 0), values["stop"], values.get("step", 1))
        for name, values in rule["dimensions"].items()
    }
    if math.prod(map(_size, dimensions.values())) > _MAX_GENERATED:
        raise _Refused(f"at most {_MAX_GENERATED} references")
    texts = {
        name: _Template(rule[name], templates, dimensions) for name in rule if name != "dimensions"
    }
    refs: dict[str, list] = {}
    for point in itertools.product(*dimensions.values()):
        names = dict(zip(dimensions, point, strict=True))
        ref: list = [texts["url"].fill(names)]
        if "offset" in texts:
            ref += [_to_number(texts[name].fill(names)) for name in ("offset", "length")]
        refs[texts["key"].fill(names)] = ref
    return refs


def _size(values: Sequence[int]) -> int:
    if not isinstance(values, range):
        return len(values)
    # len() of a huge range overflows
    return max(0, -((values.start - values.stop) // values.step))


def _to_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _Refused("offset and length that are whole numbers") from None


class _Template:
    """Text with expressions, parsed once and filled in for every point of the loop."""

    def __init__(
        self, text: str, templates: Mapping[str, str], dimensions: Mapping[str, Any]
    ) -> None:
        pieces = _EXPRESSION.split(text)
        if any(sign in piece for piece in pieces for sign in ("{{", "}}", "{%")):
            raise _Refused("no braces but {{expression}}")
        self._pieces: list[str | ast.expr] = []
        for row, piece in enumerate(pieces):
            if row % 2 == 0:
                self._pieces.append(piece)
            elif piece.strip() in templates and piece.strip() not in dimensions:
                self._pieces.append(_replace_names("{{" + piece + "}}", templates))
            else:
                self._pieces.append(_parse_expression(piece, dimensions))

    def fill(self, names: Mapping[str, int]) -> str:
        """Give the text for one point."""
        return "".join(
            piece if isinstance(piece, str) else str(_evaluate(piece, names))
            for piece in self._pieces
        )


def _parse_expression(text: str, names: Mapping[str, Any]) -> ast.expr:
    """Parse whole-number arithmetic, refusing every other kind of node."""
    if len(text) > _MAX_EXPRESSION:
        raise _Refused(f"expressions of at most {_MAX_EXPRESSION} characters")
    try:
        root = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _Refused("arithmetic over the dimensions") from None
    for node in ast.walk(root):
        is_number = isinstance(node, ast.Constant) and type(node.value) is int
        is_name = isinstance(node, ast.Name) and node.id in names
        is_sign = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        is_operation = isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS
        is_part = isinstance(node, ast.operator | ast.unaryop | ast.expr_context)
        if not (is_number or is_name or is_sign or is_operation or is_part):
            raise _Refused(f"numbers, + - * // % and the dimensions {sorted(names)}")
    return root


def _evaluate(node: ast.expr, names: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.UnaryOp):
        return -_evaluate(node.operand, names)
    assert isinstance(node, ast.BinOp)
    left, right = _evaluate(node.left, names), _evaluate(node.right, names)
    try:
        value = _OPERATORS[type(node.op)](left, right)
    except ZeroDivisionError:
        raise _Refused("no division by 0") from None
    if abs(value) > _MAX_NUMBER:
        raise _Refused("numbers below 2**63")
    return value
