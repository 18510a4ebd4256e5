"""The JSON Schemas of the repository, which the wheel holds as well."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema


def load_schema(name: str) -> jsonschema.Draft202012Validator:
    """Return the validator of a schema: "kerchunk-v0", "kerchunk-v1" or "provenance"."""
    path = Path(__file__).parents[2] / "schemas" / f"{name}.schema.json"
    return jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))
