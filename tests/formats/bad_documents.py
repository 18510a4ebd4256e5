"""The table of documents that the hand-written validator and the JSON Schemas are held against."""

from __future__ import annotations

from typing import Any

META = '{"zarr_format": 2}'
RANGE = ["s3://bucket/a.tif", 8, 100]


def v1(refs: Any, **members: Any) -> dict[str, Any]:
    return {"version": 1, "refs": refs, **members}


GENERATED = {"key": "a/{{i}}", "url": "s3://b/{{i}}.tif", "dimensions": {"i": {"stop": 3}}}

GOOD: dict[str, Any] = {
    "v0 empty": {},
    "v0": {".zgroup": META, "a/0.0": RANGE},
    "v0 metadata as object": {".zgroup": {"zarr_format": 2}, "a/.zarray": {}},
    "v0 whole file and text": {"a/0": ["a.tif"], "a/1": "text", "a/2": "base64:AAE="},
    "v1": v1({".zgroup": META, "a/0.0": RANGE}),
    "v1 without refs": {"version": 1},
    "v1 templates": v1({"a/0": ["{{u}}.tif", 0, 1]}, templates={"u": "s3://b/a"}),
    "v1 own member": v1({}, **{"x-checksums": {"a": 1}}),
    "v1 metadata as base64": v1({".zgroup": "base64:e30="}),
    "v1 metadata elsewhere": v1({"a/.zattrs": RANGE}),
    "empty base64": {"a/0": "base64:"},
    "largest offset": {"a/0": ["a.tif", 2**63 - 1, 1]},
    "names with dots": {"a.b/.c/..d/e..": RANGE, ".a": RANGE},
    "gen of nothing": v1({".zgroup": META}, gen=[]),
    "names beyond ASCII": {"é/0": RANGE, "a b/0": RANGE, 'quo"te': RANGE, "new\nline": RANGE},
}

# name -> document, code of the finding, a part of the key it names
BAD: dict[str, tuple[Any, str, str | None]] = {
    "list": ([1, 2], "document", None),
    "text": ("refs", "document", None),
    "null": (None, "document", None),
    "version 2": ({"version": 2, "refs": {}}, "version", "version"),
    "version true": ({"version": True, "refs": {}}, "version", "version"),
    "version as text": ({"version": "1", "refs": {}}, "version", "version"),
    "version 0 said": ({"version": 0, "refs": {}}, "version", "version"),
    "refs without version": ({"refs": {".zgroup": META}}, "value", "refs"),
    "refs as list": (v1([]), "member", "refs"),
    "templates as list": (v1({}, templates=[]), "member", "templates"),
    "template as number": (v1({}, templates={"u": 1}), "template", "templates.u"),
    "unknown member": (v1({}, comment="hello"), "top-level", "comment"),
    "number": (v1({"a/0": 7}), "value", "a/0"),
    "null value": (v1({"a/0": None}), "value", "a/0"),
    "object for a chunk": (v1({"a/0": {"a": 1}}), "value", "a/0"),
    "empty list": (v1({"a/0": []}), "value", "a/0"),
    "two parts": (v1({"a/0": ["a.tif", 5]}), "value", "a/0"),
    "four parts": (v1({"a/0": ["a.tif", 5, 5, 5]}), "value", "a/0"),
    "empty address": (v1({"a/0": ["", 5, 5]}), "value", "a/0"),
    "empty address of a file": (v1({"a/0": [""]}), "value", "a/0"),
    "null address": (v1({"a/0": [None, 5, 5]}), "value", "a/0"),
    "negative offset": (v1({"a/0": ["a.tif", -1, 5]}), "value", "a/0"),
    "negative length": (v1({"a/0": ["a.tif", 1, -5]}), "value", "a/0"),
    "length 0": (v1({"a/0": ["a.tif", 1, 0]}), "value", "a/0"),
    "fraction": (v1({"a/0": ["a.tif", 1.5, 5]}), "value", "a/0"),
    "boolean": (v1({"a/0": ["a.tif", True, 5]}), "value", "a/0"),
    "boolean among good": (v1({"a/0": RANGE, "a/1": ["a.tif", 1, True]}), "value", "a/1"),
    "text for a number": (v1({"a/0": ["a.tif", "1", 5]}), "value", "a/0"),
    "offset too large": (v1({"a/0": ["a.tif", 2**63, 5]}), "value", "a/0"),
    "bad base64": (v1({"a/0": "base64:AAE"}), "value", "a/0"),
    "base64 with a line": (v1({"a/0": "base64:AAE=\n"}), "value", "a/0"),
    "base64 with other letters": (v1({"a/0": "base64:A-_="}), "value", "a/0"),
    "bad base64 of metadata": (v1({".zattrs": "base64:A"}), "base64", ".zattrs"),
    "metadata as number": (v1({".zattrs": 7}), "value", ".zattrs"),
    "metadata as short list": (v1({".zattrs": ["a", 1]}), "value", ".zattrs"),
    "empty key": ({"": RANGE}, "key", ""),
    "leading slash": ({"/a/0": RANGE}, "key", "/a/0"),
    "trailing slash": ({"a/": RANGE}, "key", "a/"),
    "trailing slash of an array": ({"a/.zarray": '{"shape": [1]}', "a/": RANGE}, "key", "a/"),
    "scalar without a number": ({"a/.zarray": '{"shape": []}', "a/": RANGE}, "scalar-key", "a/"),
    "two slashes": ({"a//0": RANGE}, "key", "a//0"),
    "dot": ({"a/./0": RANGE}, "key", "a/./0"),
    "only a dot": ({".": RANGE}, "key", "."),
    "two dots": ({"../../etc/passwd": RANGE}, "key", ".."),
    "two dots at the end": ({"a/..": RANGE}, "key", "a/.."),
    "two dots before metadata": ({"../.zarray": "{}"}, "key", "../.zarray"),
    "backslash": ({"a\\0": RANGE}, "key", "a\\0"),
    "NUL": ({"a\0b": RANGE}, "key", "a\0b"),
    "gen": (v1({".zgroup": META}, gen=[GENERATED]), "gen", "gen"),
    "gen as object": (v1({}, gen={}), "gen", "gen"),
}

# what a JSON Schema cannot say: it takes these for good
BEYOND_SCHEMA: dict[str, tuple[Any, str]] = {
    "float that is whole": (v1({"a/0": ["a.tif", 8.0, 5]}), "value"),
    "template that is not there": (v1({"a/0": ["{{v}}"]}, templates={"u": "x"}), "template"),
    "template that is called": (v1({"a/0": ["{{u(c=1)}}"]}, templates={"u": "x"}), "template"),
    "template of a template": (v1({"a/0": ["{{u}}"]}, templates={"u": "{{u}}"}), "template"),
    "statement in an address": (v1({"a/0": ["{{u}}{% x %}"]}, templates={"u": "x"}), "template"),
}
