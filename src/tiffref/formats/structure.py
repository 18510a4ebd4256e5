"""The structure of a reference document: checked, and taken apart into columns.

Owns what the JSON Schemas in `schemas/` say, by hand and for whole columns, because a generic
validator needs half a minute for 100,000 references. What the metadata means is left to `metadata`,
which array a chunk belongs to to `keys`.

Follows https://fsspec.github.io/kerchunk/spec.html, versions 0 and 1; stricter where readers
disagree (a length of 0 is "nothing" in JSON and "everything" in parquet).
"""

from __future__ import annotations

import base64
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .findings import Finding, Reporter
from .templates import expand_gen, expand_url

__all__ = ["METADATA_NAMES", "RefColumns", "is_metadata_key", "parse_structure"]

METADATA_NAMES = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json")
"""Last parts of keys whose values are metadata documents."""

_MAX_RANGE = 2**63 - 1
_KEY = re.compile(r"(?!\.{1,2}(?:/|\Z))[^/\\\0]+(?:/(?!\.{1,2}(?:/|\Z))[^/\\\0]+)*\Z")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?\Z")
_KEY_SIGNS = (
    "//",
    "\\",
    "\0/",
    "/\0",
    "/./",
    "/../",
    "\0./",
    "\0../",
    "/.\0",
    "/..\0",
    "\0.\0",
    "\0..\0",
    "\0\0",
)
"""What can only stand in keys, joined by NUL, of which one is bad."""


@dataclass(frozen=True, slots=True)
class RefColumns:
    """The references of a document, in columns.

    `metadata` maps keys to JSON text or objects. For chunk references, in the order of the
    document: `keys`; `source` `(n,)` int32, a row of `urls`, or -2 where `inlined` (row to bytes)
    has the data; `offset` and `length` `(n,)` uint64, with length 0 for whole files.
    """

    metadata: Mapping[str, Any]
    keys: Sequence[str]
    urls: Sequence[str]
    source: NDArray[np.int32]
    offset: NDArray[np.uint64]
    length: NDArray[np.uint64]
    inlined: Mapping[int, bytes]


def parse_structure(document: Any, report: Reporter) -> RefColumns:
    """Check the structure of a document and take it apart.

    Parameters
    ----------
    document
        What a JSON parser gave.
    report
        Takes every offence; what is wrong is left out of the result.
    """
    refs, templates = _open_document(document, report)
    if not all(map(str.__instancecheck__, refs)):  # not from JSON
        refs = {str(key): value for key, value in refs.items()}
    bad_keys = _check_keys(refs, report)
    keys = [key for key in refs if key not in bad_keys] if bad_keys else list(refs)
    metadata = {}
    for key in [key for key in keys if is_metadata_key(key)]:
        value = _check_metadata_value(key, refs[key], report)
        if value is not None:
            metadata[key] = value
    if len(metadata) != len(keys):
        keys = [key for key in keys if not is_metadata_key(key)]
    return _parse_chunks(metadata, keys, refs, templates, report)


def is_metadata_key(key: str) -> bool:
    """Tell keys of metadata documents from keys of chunks."""
    return key.endswith(METADATA_NAMES) and key.rpartition("/")[2] in METADATA_NAMES


def _open_document(document: Any, report: Reporter) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    if not isinstance(document, Mapping):
        report(
            _structural(
                "document", "a reference document is an object", None, document, "an object"
            )
        )
        return {}, {}
    if "version" not in document:
        return document, {}
    version = document["version"]
    if isinstance(version, bool) or version != 1:
        report(_structural("version", "no such version", "version", version, "1"))
        return {}, {}
    for name in document.keys() - {"version", "templates", "gen", "refs"}:
        if not str(name).startswith("x-"):
            report(
                _structural(
                    "top-level",
                    "unknown member of the document",
                    name,
                    name,
                    "version, templates, gen, refs or x-...",
                )
            )
    templates = _member(document, "templates", Mapping, "an object", report) or {}
    for name, text in templates.items():
        if not isinstance(text, str):
            report(_structural("template", "a template is text", f"templates.{name}", text, "text"))
    templates = {name: text for name, text in templates.items() if isinstance(text, str)}
    refs = _member(document, "refs", Mapping, "an object", report) or {}
    gen = _member(document, "gen", list, "a list", report) or []
    generated = expand_gen(gen, templates, report) if gen else {}
    return ({**refs, **generated} if generated else refs), templates


def _member(document: Mapping, name: str, kind: Any, expected: str, report: Reporter) -> Any:
    value = document.get(name)
    if name in document and not isinstance(value, kind):
        report(_structural("member", f"'{name}' has the wrong type", name, value, expected))
        return None
    return value


# ---- keys


def _check_keys(refs: Mapping[str, Any], report: Reporter) -> set[str]:
    """Find the keys that no file system could have, looking closer only where there is one."""
    joined = "\0" + "\0".join(refs) + "\0"
    is_clean = joined.count("\0") == len(refs) + 1
    if not refs or (is_clean and not any(sign in joined for sign in _KEY_SIGNS)):
        return set()
    bad = [key for key in refs if not _KEY.match(key)]
    _report_many(report, "key", bad, "not a key", bad, "names joined by '/'")
    return set(bad)


# ---- values


def _check_metadata_value(key: str, value: Any, report: Reporter) -> Any:
    """Give the metadata's text or object, or None."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, str):
        data = _decode_text(value)
        if data is None:
            report(_structural("base64", "not base64", key, value, "canonical base64"))
        return data
    if _bad_reference(value) is None:
        report(
            Finding(
                "remote-metadata",
                "metadata",
                "the metadata lies in another file",
                key,
                _short(value),
                "the metadata itself",
            )
        )
        return None
    report(_structural("value", "not a reference", key, value, "JSON text or an object"))
    return None


def _parse_chunks(
    metadata: Mapping[str, Any],
    keys: list[str],
    refs: Mapping[str, Any],
    templates: Mapping[str, str],
    report: Reporter,
) -> RefColumns:
    values = list(map(refs.__getitem__, keys)) if len(keys) != len(refs) else list(refs.values())
    bad = _find_bad(values)
    if bad:
        names = [keys[row] for row in bad]
        why = _bad_reference(values[bad[0]])
        _report_many(report, "value", names, "not a reference", [values[bad[0]]], why)
        drop = set(bad)
        keys = [key for row, key in enumerate(keys) if row not in drop]
        values = [value for row, value in enumerate(values) if row not in drop]
    n_rows = len(values)
    n_parts = np.fromiter(map(_count_parts, values), np.int8, n_rows)
    source = np.full(n_rows, -2, np.int32)
    offset, length = np.zeros((2, n_rows), np.uint64)
    is_stored = np.flatnonzero(n_parts)
    stored = values if len(is_stored) == n_rows else [values[row] for row in is_stored.tolist()]
    urls = [value[0] for value in stored]
    table = {url: row for row, url in enumerate(dict.fromkeys(urls))}
    source[is_stored] = np.fromiter(map(table.__getitem__, urls), np.int32, len(urls))
    has_range = np.flatnonzero(n_parts == 3)
    ranged = values if len(has_range) == n_rows else [values[row] for row in has_range.tolist()]
    offset[has_range] = [value[1] for value in ranged]
    length[has_range] = [value[2] for value in ranged]
    inlined = {row: _decode_text(values[row]) for row in np.flatnonzero(n_parts == 0).tolist()}
    expanded = [expand_url(url, templates, report) for url in table]
    return RefColumns(metadata, keys, expanded, source, offset, length, inlined)


def _count_parts(value: Any) -> int:
    return 0 if isinstance(value, str) else len(value)


def _find_bad(values: list) -> list[int]:
    """Find the rows that are no references: in columns where all are alike, else one by one."""
    kinds = set(map(type, values))
    if kinds == {list} and set(map(len, values)) == {3}:
        urls, offsets, lengths = zip(*values, strict=True)
        if (
            set(map(type, urls)) == {str}
            and set(map(type, offsets)) == {int}
            and set(map(type, lengths)) == {int}
            and "" not in urls
            and min(offsets) >= 0
            and min(lengths) >= 1
            and max(max(offsets), max(lengths)) <= _MAX_RANGE
        ):
            return []
    return [row for row, value in enumerate(values) if _bad_reference(value) is not None]


def _bad_reference(value: Any) -> str | None:
    """Tell what a value should have been, or None where it is a reference."""
    if isinstance(value, str):
        return None if _decode_text(value) is not None else "canonical base64"
    if not isinstance(value, list | tuple) or len(value) not in (1, 3):
        return "text, [url] or [url, offset, length]"
    if not isinstance(value[0], str) or not value[0]:
        return "an address that is not empty"
    for number, least in zip(value[1:], (0, 1), strict=False):
        if type(number) is not int or not least <= number <= _MAX_RANGE:
            return f"whole numbers, offset from 0 and length from 1 to {_MAX_RANGE}"
    return None


def _decode_text(value: str) -> bytes | None:
    """Give the bytes of an inlined value; None if it says base64 and is not."""
    if not value.startswith("base64:"):
        return value.encode("utf-8", "surrogatepass")
    text = value[7:]
    return base64.b64decode(text) if _BASE64.match(text) else None


# ---- findings


def _structural(code: str, what: str, key: Any, got: Any, expected: str) -> Finding:
    name = None if key is None else str(key)
    return Finding(code, "structure", what, name, _short(got), expected)


def _report_many(
    report: Reporter, code: str, keys: Sequence[str], what: str, got: Iterable[Any], expected: Any
) -> None:
    first = next(iter(zip(keys, got, repeat(expected))))
    report(
        Finding(code, "structure", what, first[0], _short(first[1]), first[2], n_more=len(keys) - 1)
    )


def _short(value: Any) -> str:
    text = reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
