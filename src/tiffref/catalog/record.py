"""What a catalog keeps of how it is built, so that all its builds agree.

Owns the two small files of it: the plan, which must be the same each time, and the products, which
are made again each time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import CatalogError, SelectionError
from .folder import STATE, Folder

__all__ = ["agree", "plan_products", "record_products"]

_PLAN = f"{STATE}/plan.json"
_PRODUCTS = f"{STATE}/products.json"
_VERSION = 1


def agree(folder: Folder, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Record how a catalog is built, or check that it is built the same way as before.

    Returns
    -------
    The recorded plan.

    Raises
    ------
    CatalogError
        If it was built otherwise.
    """
    plan: dict[str, Any] = json.loads(json.dumps({"version": _VERSION, **wanted}))
    text = folder.read(_PLAN)
    if text is None:
        folder.put(_PLAN, json.dumps(plan, indent=1).encode())
        folder.flush()
        return plan
    known = _parse(folder, _PLAN, text)
    for name, value in plan.items():
        if name != "root" and known.get(name) != value:
            raise CatalogError(
                f"the catalog was built with another {name}",
                url=folder.address,
                got=value,
                expected=known.get(name) or "none",
                hint="Build into a new folder, or with the options it was built with.",
            )
    return known


def _parse(folder: Folder, name: str, text: bytes) -> dict[str, Any]:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CatalogError(
            "the catalog's plan cannot be read", url=f"{folder.address}/{name}", got=str(error),
            hint="Build into a new folder.",
        ) from error  # fmt: skip


def plan_products(folder: Folder, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Give what is to be made of a catalog besides its index: what is wanted, and what was before.

    What a build has made once, each later one keeps up: sets and items of files as they were before
    would be wrong.

    Parameters
    ----------
    folder
        Of the catalog.
    wanted
        Product -> how it is made; None or False for what this run does not ask for.
    """
    text = folder.read(_PRODUCTS)
    before = _parse(folder, _PRODUCTS, text) if text is not None else {}
    try:
        asked = json.loads(json.dumps({name: how for name, how in wanted.items() if how}))
    except TypeError as error:
        raise SelectionError(
            "options of combined sets are recorded as JSON", got=str(error),
            expected="texts, numbers and lists of these",
        ) from error  # fmt: skip
    return {**before, **asked}


def record_products(folder: Folder, products: Mapping[str, Any]) -> None:
    """Record what was made of a catalog."""
    data = json.dumps(products, indent=1).encode()
    if folder.read(_PRODUCTS) != data:
        folder.put(_PRODUCTS, data)
