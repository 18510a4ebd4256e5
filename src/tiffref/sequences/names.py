"""Extract fields from file names with patterns: `S2A_{tile}_{time:%Y%m%d}_{band}.tif`.

A pattern is a readable form with `{fields}`, a regular expression, a glob, or a preset of a
well-known product. Fields are text here; `sequences.coordinates` converts them to values.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import ManifestMismatch, SelectionError, did_you_mean, first_few
from ..io.urls import shared_folder
from ..signatures import public_url

_FIELD = re.compile(r"\{(?P<name>\w*)(?::(?P<format>[^{}]*))?\}")
_MAGIC = re.compile(r"[*?\[]")
_DIRECTIVES = {
    "Y": r"\d{4}", "m": r"\d{2}", "d": r"\d{2}", "H": r"\d{2}", "M": r"\d{2}", "S": r"\d{2}",
    "f": r"\d{1,6}", "j": r"\d{3}", "y": r"\d{2}", "b": r"[A-Za-z]{3}", "B": r"[A-Za-z]+",
    "p": r"[AaPp][Mm]", "z": r"(?:Z|[+-]\d{2}:?\d{2})", "%": "%",
}  # fmt: skip
"""Regular expression of each `strptime` directive."""

_AXIS = r"([qlpactxyz]|ch|tp)(\d{1,4})"
_TIME_8 = {"time": "%Y%m%d"}
PRESETS: Mapping[str, tuple[Mapping[str, str], *tuple[str, ...]]] = {
    "sentinel-2": (
        {"tile": "str", "band": "str", **_TIME_8},
        r"(?:^|_)T(?P<tile>\d{2}[A-Z]{3})_(?P<time>\d{8})T\d{6}_(?P<band>[A-Z0-9]{3})(?:_\d+m)?\.",
        r"S2[A-D]_T?(?P<tile>\d{1,2}[A-Z]{3})_(?P<time>\d{8})_\d+_L\d[AC][_/](?P<band>\w+)\.",
    ),
    "landsat": (
        {"tile": "str", "band": "str", **_TIME_8},
        r"L[A-Z]\d{2}_L[A-Z0-9]{3}_(?P<tile>\d{6})_(?P<time>\d{8})_\d{8}_\d{2}_(?:T1|T2|RT)_"
        r"(?P<band>\w+)\.",
    ),
    "modis": (
        {"tile": "str", "band": "str", "time": "%Y%j"},
        r"M[OYC]D\w+\.A(?P<time>\d{7})\.(?P<tile>h\d{2}v\d{2})\.\d{3}(?:\.\d{13})?"
        r"[._](?P<band>\w+)\.",
    ),
    "cellvoyager": (
        {"row": "str"},
        r"_(?P<row>[A-P])(?P<column>\d{2})_T(?P<t>\d{4})F(?P<field>\d{3})L\d{2}A\d{2}"
        r"Z(?P<z>\d{2})C(?P<c>\d{2})\.",
    ),
    "opera": (
        {},
        r"r(?P<row>\d{2})c(?P<column>\d{2})f(?P<field>\d{2,3})p(?P<z>\d{2,3})"
        r"-ch(?P<c>\d+)sk(?P<t>\d+)fk\d+fl\d+\.",
    ),
    "incell": (
        {"row": "str", "c": "str"},
        r"(?P<row>[A-P]) - (?P<column>\d+)\(fld (?P<field>\d+) wv (?P<c>.+?)"
        r"(?: z (?P<z>\d+))?(?: tm (?P<t>\d+))?\)\.",
    ),
    "micromanager": (
        {},
        r"img_channel(?P<c>\d+)_position(?P<position>\d+)_time(?P<t>\d+)_z(?P<z>\d+)\.",
        r"img_(?P<t>\d{9})_(?P<c>.+)_(?P<z>\d{3})\.",
    ),
    "axes": ({}, r"(?i)_?" + _AXIS + rf"(?:_?{_AXIS})?" * 6),
}
"""Name -> formats, and regular expressions: the first one that matches all names is used."""


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A compiled pattern.

    Attributes
    ----------
    text
        The pattern as passed by the user.
    expressions
        Regular expressions; the first one that matches all names is used.
    formats
        Field -> "int", "float", "str" or a format of `strptime`. The type of other fields is
        inferred.
    n_parts
        Number of path components, from the end, to match as a whole; 0 searches in the name.
    """

    text: str
    expressions: tuple[re.Pattern[str], ...]
    formats: Mapping[str, str] = field(default_factory=dict)
    n_parts: int = 0


def has_fields(text: str) -> bool:
    """Return whether a pattern has `{fields}`."""
    return "(?" not in text and _FIELD.search(text) is not None


def is_pattern(name: str) -> bool:
    """Return whether a name is a glob or a pattern with fields.

    The name of an existing file is never a pattern, and in a URL "?" begins the query.

    >>> is_pattern("t_*.tif"), is_pattern("t_{time}.tif"), is_pattern("https://host/t.tif?a=*")
    (True, True, False)
    """
    text = "::".join(
        link.partition("?")[0] if link.startswith(("http://", "https://")) else link
        for link in name.split("::")
    )
    is_magic = bool(has_fields(text) or _MAGIC.search(text))
    return is_magic and not os.path.exists(name)  # noqa: PTH110 - takes names of any length


def to_glob(text: str) -> str:
    """Return a glob that matches all names that the readable pattern may match.

    >>> to_glob("s3://b/S2_{time:%Y%m%d}_{band}.tif")
    's3://b/S2_*_*.tif'
    """
    # the format of a field may span folders: {time:%Y/%m/%d}
    return _FIELD.sub(lambda field: re.sub("[^/]+", "*", field[0]), text)


def parse_pattern(text: str, formats: Mapping[str, str] | None = None) -> NamePattern:
    """Parse a pattern: readable form, regular expression, glob, or the name of a preset.

    Parameters
    ----------
    text
        `"S2A_{tile}_{time:%Y%m%d}_{band}.tif"`; `r"t(?P<t>\\d+)_c(?P<c>\\d+)"`, also with unnamed
        groups that alternate between axis letter and digits; `"img_*.tif"`, whose wildcards are
        fields; or a key of `PRESETS`.
    formats
        Field -> "int", "float", "str" or a format of `strptime`, added to those of the pattern.

    Raises
    ------
    SelectionError
        If it is not a pattern, or has no field.
    """
    _check_syntax(text)
    if text in PRESETS:
        own, *expressions = PRESETS[text]
        return NamePattern(text, tuple(map(re.compile, expressions)), {**own, **(formats or {})})
    try:
        if has_fields(text):
            expression, own = _translate(text)
            n_parts = text.rstrip("/").count("/") + 1 if "://" not in text else 1
        elif "(" not in text:
            expression, own = _translate(_glob_fields(text.rsplit("/", 1)[-1]))
            n_parts = 1
        else:
            expression, own, n_parts = text, {}, 0
        compiled = re.compile(expression)
    except re.error as error:
        raise SelectionError("not a pattern", got=repr(text), hint=f"{error}.") from error
    if not compiled.groups:
        raise SelectionError(
            "the pattern has no field",
            got=repr(text),
            expected="fields such as {time:%Y%m%d}, named groups (?P<time>...), or wildcards",
        )
    return NamePattern(text, (compiled,), {**own, **(formats or {})}, n_parts)


def _check_syntax(text: str) -> None:
    """Refuse unbalanced braces, invalid field names, and unknown presets."""
    if text.count("{") != text.count("}"):
        brace = "{" if text.count("{") > text.count("}") else "}"
        raise SelectionError(
            f"unmatched {brace} in the pattern", got=repr(text),
            expected="fields such as {time:%Y%m%d}",
        )  # fmt: skip
    odd = re.search(r"\{[^{}]*\}", _FIELD.sub("", text)) if has_fields(text) else None
    if odd is not None:
        raise SelectionError(
            f"{odd[0]} is not a field", got=repr(text),
            expected="a name of letters, digits and _, such as {band} or {time:%Y%m%d}",
        )  # fmt: skip
    if re.fullmatch(r"[\w-]+", text) and text not in PRESETS:
        raise SelectionError(
            f"unknown preset {text!r}",
            expected=f"a pattern with {{fields}}, or one of {', '.join(sorted(PRESETS))}",
            hint=did_you_mean(text.lower(), PRESETS, 0.5),
        )


def _translate(text: str) -> tuple[str, dict[str, str]]:
    """Translate the readable form to a regular expression and the formats of its fields."""
    formats: dict[str, str] = {}
    seen: set[str] = set()
    pieces: list[_Piece] = []
    at = 0
    for place in _FIELD.finditer(text):
        pieces += _literal(text[at : place.start()])
        at = place.end()
        name, kind = place["name"], place["format"] or ""
        if not name:
            pieces.append(_Piece("[^/]*?", is_free=True))
        elif name in seen:
            pieces.append(_Piece(f"{_REPEATED}{name})", continues_with=r"\s\S"))
        else:
            seen.add(name)
            type_, value, continues_with = _parse_format(kind)
            pieces.append(_Piece(f"(?P<{name}>{value})", not continues_with, continues_with))
            if kind:
                formats[name] = type_
    return _join(pieces + _literal(text[at:])), formats


class _Piece(NamedTuple):
    """Part of a regular expression: a field with any text (`is_free`), a field with a format, or
    plain text. `continues_with` are characters that could extend a match."""

    expression: str
    is_free: bool = False
    continues_with: str = ""


_REPEATED = "(?P="
"""Start of a backreference: a repeated field must have the same text."""


def _literal(text: str) -> list[_Piece]:
    """Escape plain text; wildcards keep their meaning."""
    pieces = []
    for n, part in enumerate(text.split("*")):
        if n:
            pieces.append(_Piece("[^/]*?", is_free=True))
        if part:
            pieces.append(_Piece(re.escape(part).replace(r"\?", "[^/]")))
    return pieces


def _join(pieces: Sequence[_Piece]) -> str:
    """Join pieces so that non-matching names fail in linear time.

    A free field ends at the first occurrence of the pieces that follow it. If these are followed by
    another free field, no later occurrence could make the rest match, so backtracking is disabled
    (atomic groups). Otherwise eight fields would be tried at every choice of eight separators. The
    last free field must be able to reach the end, so it stays as it is, as do fields before a
    backreference.
    """
    parts: list[str] = []
    free = [n for n, piece in enumerate(pieces) if piece.is_free]
    starts = [*free, len(pieces)]
    for n, after in itertools.pairwise([0, *starts]):
        text = "".join(piece.expression for piece in pieces[n:after])
        is_followed = n in free[:-1] and after > n
        is_repeated = any(piece.expression.startswith(_REPEATED) for piece in pieces[after:])
        is_atomic = is_followed and not is_repeated and _is_unambiguous(pieces[n + 1 : after])
        parts.append(f"(?>{text})" if is_atomic else text)
    return "".join(parts)


def _is_unambiguous(pieces: Sequence[_Piece]) -> bool:
    """Return whether pieces can match in only one way at a given position."""
    for piece, after in itertools.pairwise([*pieces, _Piece("[^/]")]):
        first = after.expression.removeprefix("\\")[:1]
        is_any = after.expression.startswith("[^/]") or after.continues_with
        if piece.continues_with and (is_any or re.match(f"[{piece.continues_with}]", first)):
            return False
    return True


_ANY_TEXT = "[^/]+?"
_TYPES = {
    "d": ("int", r"[+-]?\d+", "0-9"),
    "f": ("float", r"[+-]?\d+(?:\.\d+)?", "0-9A-Za-z.:+-"),
    "s": ("str", _ANY_TEXT, ""),
    "": ("", _ANY_TEXT, ""),
}
"""Last letter of a format -> type of the field, its regular expression, and `continues_with`."""


def _parse_format(kind: str) -> tuple[str, str, str]:
    """Return the row of `_TYPES` of a field, as in Python's format specifications, or of a date.

    >>> _parse_format("03d"), _parse_format("%Y%j")[:2]
    (('int', '[+-]?\\\\d+', '0-9'), ('%Y%j', '\\\\d{4}\\\\d{3}'))
    """
    if "%" in kind:
        pieces = re.split(r"%(.)", kind)
        unknown = [code for code in pieces[1::2] if code not in _DIRECTIVES]
        if unknown:
            raise SelectionError(
                f"%{unknown[0]} is not a date code", got=repr(kind),
                expected=" ".join(f"%{code}" for code in _DIRECTIVES),
            )  # fmt: skip
        pieces[::2] = map(re.escape, pieces[::2])
        pieces[1::2] = map(_DIRECTIVES.__getitem__, pieces[1::2])
        return kind, "".join(pieces), "0-9A-Za-z.:+-"
    letter = {"int": "d", "float": "f", "str": "s"}.get(kind, kind[-1:])
    if letter not in _TYPES:
        raise SelectionError(
            "unknown field format",
            got=repr(kind),
            expected="d, f, s, or a date format such as %Y%m%d",
        )
    return _TYPES[letter]


def _glob_fields(text: str) -> str:
    """Return the readable form of a glob; each run of wildcards is a field: i, i2, ..."""
    numbers = itertools.count(1)
    names = (f"i{n}" if n > 1 else "i" for n in numbers)
    return re.sub(r"[*?]+", lambda _: f"{{{next(names)}}}", text)


def read_names(names: Sequence[str], pattern: NamePattern) -> dict[str, list[str]]:
    """Extract the fields of all names.

    A regular expression is searched in the file names; if it does not match all of them, in the
    paths below their common folder, then in the full paths.

    Returns
    -------
    Field -> its text in each name, in the order of the fields in the pattern.

    Raises
    ------
    ManifestMismatch
        If some names do not match.
    """
    names = [public_url(name) for name in names]  # without signatures
    best: list[int] = []
    for expression in pattern.expressions:
        for parts in _path_parts(names, pattern.n_parts):
            find = expression.fullmatch if pattern.n_parts else expression.search
            matches = [find(part) for part in parts]
            failed = [n for n, match in enumerate(matches) if match is None]
            if not failed:
                return _columns(names, [match for match in matches if match is not None])
            if not best or len(failed) < len(best):
                best = failed
    expected = repr(pattern.text)
    if pattern.text in PRESETS:
        expected += f", {' or '.join(expression.pattern for expression in pattern.expressions)}"
    raise ManifestMismatch(
        f"{len(best)} of {len(names)} names do not match the pattern",
        got=first_few(names[n].rsplit("/", 1)[-1] for n in best),
        expected=expected,
        hint="Use a pattern that matches all names, or pass only files that match.",
    )


def _path_parts(names: Sequence[str], n_parts: int) -> Iterator[list[str]]:
    """Yield the parts of the paths to match, in order of preference."""
    paths = [name.replace("\\", "/") if os.sep == "\\" else name for name in names]
    if n_parts:
        yield ["/".join(path.split("/")[-n_parts:]) for path in paths]
        return
    yield [path.rsplit("/", 1)[-1] for path in paths]
    yield [path.removeprefix(shared_folder(paths)) for path in paths]
    yield paths


def _columns(names: Sequence[str], matches: Sequence[re.Match[str]]) -> dict[str, list[str]]:
    first = matches[0]
    if first.re.groupindex:
        # ignore an optional group that is absent everywhere
        rows = [match.groupdict() for match in matches]
        fields = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    else:
        rows = [_unnamed_fields(match) for match in matches]
        fields = list(rows[0])
    for name, row in zip(names, rows, strict=True):
        given = [key for key in row if row[key] is not None]
        if given != fields:
            what = "the name has different fields than the first one"
            raise ManifestMismatch(what, url=name, got=given, expected=fields)
    return {key: [row[key] for row in rows] for key in fields}


def _unnamed_fields(match: re.Match[str]) -> dict[str, str]:
    """Return the fields of unnamed groups: letters name the axis of the digits that follow.

    If the pattern ignores case, so do names of axes.
    """
    fields: dict[str, str] = {}
    axis = None
    for text in match.groups():
        if text is None:
            continue
        if text[:1].isalpha() and axis is None:
            axis = text.lower() if match.re.flags & re.IGNORECASE else text
            continue
        name = axis or ("i" if "i" not in fields else f"i{len(fields) + 1}")
        fields[name] = text
        axis = None
    return fields


_TOKENS = (
    (re.compile(r"(?<!\d)(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])T\d{6}(?!\d)"),
     "{time:%Y%m%dT%H%M%S}"),
    (re.compile(r"(?<!\d)(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])(?!\d)"), "{time:%Y%m%d}"),
    (re.compile(r"(?<!\d)(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:[0-2]\d|3[01])(?!\d)"),
     "{time:%Y-%m-%d}"),
    (re.compile(r"(?<!\d)(?:19|20)\d\d\.(?:0[1-9]|1[0-2])\.(?:[0-2]\d|3[01])(?!\d)"),
     "{time:%Y.%m.%d}"),
    (re.compile(r"(?<!\d)(?:19|20)\d\d\.(?:0[1-9]|1[0-2])(?!\d)"), "{time:%Y.%m}"),
    (re.compile(r"(?<=[_.-])B(?:\d{1,2}A?|AND\d+)(?=[_.-])", re.IGNORECASE), "{band}"),
    (re.compile(r"(?<=[_.-])(?:red|green|blue|nir|swir\d*|rededge\d*)(?=[_.-])", re.IGNORECASE),
     "{band}"),
)  # fmt: skip
"""Dates and bands in names, and the field that replaces them."""


def suggest_pattern(names: Sequence[str]) -> str | None:
    """Return a preset or a pattern that distinguishes all names by dates, bands or axes.

    >>> suggest_pattern(["a_20220501_B04.tif", "a_20220501_B08.tif"])
    'a_20220501_{band}.tif'
    """
    if len(names) < 2:
        return None
    first = re.split(r"[\\/]", names[0])[-1]
    if set("{}*?") & set(first):
        return None
    candidates = []
    for tokens in itertools.chain(*(itertools.combinations(_TOKENS, n) for n in (2, 1))):
        text = first
        for token, place in tokens:
            text = token.sub(place, text, count=1)
        candidates.append(text)
    for text in (*[name for name in PRESETS if name != "axes"], *candidates, "axes"):
        try:
            columns = read_names(names, parse_pattern(text))
        except (ManifestMismatch, SelectionError):
            continue
        rows = set(zip(*columns.values(), strict=True))
        if len(rows) == len(names) and all(len(set(values)) > 1 for values in columns.values()):
            return text
    return None
