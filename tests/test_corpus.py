"""Real files, read back through references in four ways: all must agree with the oracles.

Runs over a sample of the corpus that `TIFFREF_CORPUS` names; `TIFFREF_CORPUS_EVERY=1` takes all.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import warnings

import numpy as np
import pytest

import tiffref
import zarr
from tiffref.codecs.zarr_codecs import portability, to_zarr3
from tiffref.zarr import ZarrTiffStore

EVERY = int(os.environ.get("TIFFREF_CORPUS_EVERY", "12"))
STANDARD = (1, 8, 32946, 34925, 50000)
"""Compressions that numcodecs has itself: none, deflate, LZMA, Zstandard."""
LOSSY = ("JPEG", "JP2000", "WEBP", "LERC")


@pytest.fixture(scope="module")
def records(corpus):
    found = json.loads((corpus / "records.json").read_text())["files"]
    agreed = [r for r in found if r["agreement"] in ("agree", "only tifffile")]
    return agreed[::EVERY]


def scan(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tiffref.scan(path, axes="as-stored")


def digest(array):
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(little.tobytes()).hexdigest()


def oracles(record):
    for series in record["oracle"]["series"]:
        for j, level in enumerate(series["levels"]):
            if "sha256" in level:
                yield series["index"], j, level


def open_group(references, zarr_format):
    options = {
        "fo": references.to_kerchunk(zarr_format=zarr_format),
        "remote_protocol": "file",
        "asynchronous": True,
        "remote_options": {"asynchronous": True},
    }
    return zarr.open_group(
        "reference://", mode="r", storage_options=options, zarr_format=zarr_format
    )


def read_ways(references, path):
    """Read one array as v2 and v3 document in zarr, through the store, and with xarray."""
    xarray = pytest.importorskip("xarray")
    yield "v2 in zarr", open_group(references, 2)[path][...]
    # pyramids of microscopes are trees in v3, whose arrays have other paths
    as_v3 = references.laid_out(3)
    path_v3 = list(as_v3.group.arrays())[[*dict(references.group.arrays())].index(path)][0]
    yield "v3 in zarr", open_group(references, 3)[path_v3][...]
    array = references.group[path]
    single = tiffref.References(references.group.with_children({path: array}))
    yield "store[...]", ZarrTiffStore(single)[...]
    options = {"remote_protocol": "file"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = xarray.open_dataset(
            references.to_kerchunk(), engine="kerchunk", mask_and_scale=False,
            decode_times=False, storage_options=options,
        )  # fmt: skip
        yield "xarray", dataset[path].values


def test_four_ways_to_the_same_pixels(corpus, records):
    wrong, n_levels = [], 0
    for record in records:
        try:
            references = scan(corpus / "files" / record["file"])
        except tiffref.TiffrefError as error:
            wrong.append((record["file"], "scan", str(error)[:200]))
            continue
        paths = {
            (one["index"], j): level.get("path")
            for one in references.series
            for j, level in enumerate(one["levels"])
        }
        kinds = {kind["compression"] for kind in record["classify"]["page_kinds"]}
        for i, j, oracle in oracles(record):
            path = paths.get((i, j))
            if path is None or "/" in path:
                continue
            n_levels += 1
            ways = {name: digest(got) for name, got in read_ways(references, path)}
            is_lossy = any(name in str(kind) for kind in kinds for name in LOSSY)
            truth = ways["v2 in zarr"] if is_lossy else oracle["sha256"]
            wrong += [(record["file"], path, name) for name, got in ways.items() if got != truth]
    assert n_levels > 10
    assert not wrong, f"{len(wrong)} of {n_levels} levels: {wrong[:10]}"


def test_share_of_portable_documents(corpus, records, capsys):
    """What a standard id can say exactly is said by it; the share is printed for the docs."""
    tiers, needless, in_v3 = collections.Counter(), [], collections.Counter()
    for record in records:
        try:
            references = scan(corpus / "files" / record["file"])
        except tiffref.TiffrefError:
            continue
        for path, array in references.group.arrays():
            if not path.startswith("image") or not array.manifest.n_chunks:
                continue
            tier, why = portability(array.codec)
            tiers[tier] += 1
            v3 = to_zarr3(array.codec, chunks=array.chunks)["codecs"]
            in_v3["tiffref_segment" not in str(v3)] += 1
            config = array.codec.to_config()
            plain = {"shape", "dtype", "compression", "byteorder", "sample_format"}
            is_sayable = config.get("compression", 1) in STANDARD and set(config) <= plain
            if tier != "standard" and is_sayable and array.codec.sample_format != 5:
                needless.append((record["file"], path, why))
    n = sum(tiers.values())
    with capsys.disabled():
        shares = ", ".join(f"{tier} {count / n:.0%}" for tier, count in tiers.most_common())
        print(f"\nof {n} levels, codecs that read them: {shares}")
        open_v2 = 1 - tiers["tiffref"] / n
        print(f"without tiffref: {open_v2:.0%} in Zarr v2, {in_v3[True] / n:.0%} in v3")
    assert not needless
    assert tiers["standard"] / n > 0.3
    assert in_v3[True] >= n - tiers["tiffref"] - n // 100
