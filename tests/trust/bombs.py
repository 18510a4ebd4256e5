"""Documents whose chunks decode to far more than they should, made from each codec and position.

`python tests/trust/bombs.py DOOR` (a name of `DOORS`) opens all of them by one door, and prints as
JSON what became of each and how many MiB the process took more than for honest documents.
"""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import os
import struct
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
from parquet_bombs import parquet_documents

MIB = 1 << 20
N_ITEMS = 8
Config = dict[str, Any]
LITTLE: Config = {"name": "bytes", "configuration": {"endian": "little"}}


def deflated(n_mib: int, before: bytes, after: bytes) -> bytes:
    """Return a stream of so many MiB of zeros, made of equal blocks."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(bytes(16 * MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return before + block * (n_mib // 16) + b"\3\0" + after


def of_zlib(n_mib: int = 768) -> bytes:
    adler = ((n_mib * MIB) % 65521) << 16 | 1
    return deflated(n_mib, b"\x78\xda", struct.pack(">I", adler))


def of_gzip() -> bytes:
    return numcodecs.GZip(9).encode(bytes(16 * MIB)) * 48  # type: ignore[no-any-return]


def of_zstd(is_told: bool = False) -> bytes:
    """Return a frame of blocks of one repeated byte, with its size or without."""
    n_blocks = 6000
    size = struct.pack("<Q", n_blocks << 17) if is_told else b"\x58"
    block = ((128 << 10) << 3 | 2).to_bytes(3, "little") + b"\0"
    last = ((128 << 10) << 3 | 3).to_bytes(3, "little") + b"\0"
    head = b"\x28\xb5\x2f\xfd" + (b"\xe0" if is_told else b"\0")
    return head + size + block * (n_blocks - 1) + last


def of_blosc() -> bytes:
    data = bytearray(numcodecs.Blosc().encode(bytes(256)))
    data[4:8] = struct.pack("<I", 0x7FFF0000)
    return bytes(data)


def of_blosc_zeros() -> bytes:
    return bytes(numcodecs.Blosc("zstd", 9).encode(bytes(256 * MIB)))


def of_image(name: str) -> bytes:
    """Return an image of many pixels, all alike; or its header, where encoding takes long."""
    import imagecodecs

    encode = getattr(imagecodecs, f"{'jpeg8' if name == 'jpeg' else name}_encode")
    data = bytearray(
        encode(np.zeros((64, 64), "u1") if name != "webp" else np.zeros((64, 64, 3), "u1"))
    )
    large = struct.pack(">HH", 0xFFF0, 0xFFF0)
    if name == "jpeg":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = large
    elif name == "png":
        data[16:24] = struct.pack(">II", 60_000, 60_000)
    elif name == "jpeg2k":
        at = data.index(b"\xff\x4f\xff\x51")
        data[at + 8 : at + 16] = struct.pack(">II", 60_000, 60_000)
    elif name == "lerc":
        data[14:22] = struct.pack("<ii", 60_000, 60_000)
    else:
        shape = (8000, 8000, 3) if name == "webp" else (8000, 8000)
        quickly = {"effort": 1} if name == "jpegxl" else {}
        return bytes(encode(np.zeros(shape, "u1"), **quickly))
    return bytes(data)


def of_texts() -> bytes:
    return struct.pack("<I", 0x1F000000) + bytes(64)


def of_segment() -> Config:
    return {"id": "tiffref_segment", "shape": [1, 1, 1 << 15, 1 << 14], "dtype": "|u1"}


STREAMS: Mapping[str, tuple[Config, Callable[[], bytes]]] = {
    "zlib": ({"id": "zlib", "level": 1}, of_zlib),
    "gzip": ({"id": "gzip", "level": 1}, of_gzip),
    "bz2": ({"id": "bz2", "level": 1}, lambda: bz2.compress(bytes(16 * MIB), 9) * 48),
    "lzma": ({"id": "lzma"}, lambda: lzma.compress(bytes(8 * MIB), preset=0) * 96),
    "zstd": ({"id": "zstd", "level": 1}, of_zstd),
    "zstd with a size": ({"id": "zstd", "level": 1}, lambda: of_zstd(True)),
    "lz4": ({"id": "lz4"}, lambda: struct.pack("<I", 0x7FFF0000) + bytes(64)),
    "blosc": ({"id": "blosc"}, of_blosc),
    "blosc of zeros": ({"id": "blosc"}, of_blosc_zeros),
    "imagecodecs_deflate": ({"id": "imagecodecs_deflate"}, of_zlib),
    "imagecodecs_zstd": ({"id": "imagecodecs_zstd"}, of_zstd),
    "imagecodecs_blosc2": ({"id": "imagecodecs_blosc2"}, of_blosc),
    "imagecodecs_brotli": ({"id": "imagecodecs_brotli"}, lambda: _encoded("brotli", 64)),
    "imagecodecs_lzw": ({"id": "imagecodecs_lzw"}, lambda: _encoded("lzw", 64)),
    "imagecodecs_lz4": ({"id": "imagecodecs_lz4"}, lambda: bytes(64)),
    **{f"imagecodecs_{name}": ({"id": f"imagecodecs_{name}"}, lambda name=name: of_image(name))
       for name in ("jpeg", "png", "jpeg2k", "lerc", "webp", "jpegxl")},
    "vlen-utf8": ({"id": "vlen-utf8"}, of_texts),
    "vlen-bytes": ({"id": "vlen-bytes"}, of_texts),
    "vlen-array": ({"id": "vlen-array", "dtype": "<f8"}, of_texts),
    "msgpack2": ({"id": "msgpack2"}, lambda: b"\xdd\x1f\0\0\0" + bytes(64)),
    "json2": ({"id": "json2"}, lambda: b'[1,"<f8",[90000000]]'),
    "astype": ({"id": "astype", "encode_dtype": "|u1", "decode_dtype": "<U9000000"},
               lambda: bytes(64)),
    "delta": ({"id": "delta", "dtype": "<U9000000", "astype": "|u1"}, lambda: bytes(64)),
    "categorize": ({"id": "categorize", "labels": ["a"], "dtype": "<U9000000", "astype": "|u1"},
                   lambda: bytes(64)),
    "tiffref_segment": (of_segment(), lambda: zlib.compress(bytes(64))),
    "pickle": ({"id": "pickle", "protocol": 5}, lambda: bytes(64)),
}  # fmt: skip
"""A codec and what it makes gigabytes of."""


def _encoded(name: str, n_mib: int) -> bytes:
    import imagecodecs

    return bytes(getattr(imagecodecs, f"{name}_encode")(bytes(n_mib * MIB)))


def chains(config: Config) -> Iterator[tuple[str, list[Config], Config | None, bool]]:
    """Return filters and compressor with a codec at each position, and whether zlib is around."""
    yield "alone", [], config, False
    yield "behind shuffle", [{"id": "shuffle", "elementsize": 8}], config, False
    delta = {"id": "delta", "dtype": "<f8", "astype": "<f8"}
    yield "as a filter", [delta, config], {"id": "zlib", "level": 1}, True


def v2_documents() -> Iterator[tuple[str, Mapping[str, Any], bytes]]:
    for name, (config, make) in STREAMS.items():
        chunk = make()
        for position, filters, compressor, is_wrapped in chains(config):
            data = zlib.compress(chunk, 1) if is_wrapped else chunk
            yield f"{name}, {position}", _zarray(filters, compressor), data


def _zarray(filters: list[Config], compressor: Config | None) -> Mapping[str, Any]:
    return {
        "zarr_format": 2, "shape": [2 * N_ITEMS], "chunks": [N_ITEMS], "dtype": "<f8", "order": "C",
        "fill_value": None, "filters": filters or None, "compressor": compressor,
    }  # fmt: skip


def _v3(config: Config) -> Config:
    rest = {key: value for key, value in config.items() if key != "id"}
    plain = {"zlib": "numcodecs.zlib", "lz4": "numcodecs.lz4", "bz2": "numcodecs.bz2",
             "lzma": "numcodecs.lzma"}  # fmt: skip
    if config["id"] == "zstd":
        rest = {"level": 1, "checksum": False}
    elif config["id"] == "blosc":
        rest = {"typesize": 1, "cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "blocksize": 0}
    return {"name": plain.get(config["id"], config["id"]), "configuration": rest}


def v3_documents() -> Iterator[tuple[str, Mapping[str, Any], bytes]]:
    for name in ("zlib", "gzip", "bz2", "lzma", "zstd", "zstd with a size", "lz4", "blosc"):
        config, make = STREAMS[name]
        chunk, codec = make(), _v3(config)
        outer = {"name": "numcodecs.zlib", "configuration": {"level": 1}}
        crc = {"name": "crc32c"}
        yield f"v3 {name}, last", _zarr_json([codec]), chunk
        yield f"v3 {name}, in zlib", _zarr_json([codec, outer]), zlib.compress(chunk, 1)
        checked = bytes(numcodecs.CRC32C(location="end").encode(chunk))
        yield f"v3 {name}, under a checksum", _zarr_json([codec, crc]), checked
        shard = {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [N_ITEMS], "codecs": [LITTLE, codec],
                "index_codecs": [LITTLE],
            },
        }  # fmt: skip
        index = struct.pack("<QQ", 0, len(chunk))
        yield f"v3 {name}, in a shard", _zarr_json([shard], bytes_first=False), chunk + index
    texts = [{"name": "vlen-utf8"}]
    yield "v3 vlen-utf8", _zarr_json(texts, bytes_first=False, data_type="string"), of_texts()
    segment = [{"name": "tiffref_segment", "configuration": {
        key: value for key, value in of_segment().items() if key != "id"}}]  # fmt: skip
    yield "v3 tiffref_segment", _zarr_json(segment, bytes_first=False), zlib.compress(bytes(64))


def _zarr_json(
    codecs: list[Config], bytes_first: bool = True, data_type: str = "float64"
) -> Config:
    first = [LITTLE] if bytes_first else []
    return {
        "zarr_format": 3, "node_type": "array", "shape": [2 * N_ITEMS], "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [N_ITEMS]}},
        "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}},
        "fill_value": "" if data_type == "string" else 0, "attributes": {},
        "dimension_names": ["x"], "codecs": first + codecs,
    }  # fmt: skip


def write_json(path: Path, metadata: Mapping[str, Any], chunk: bytes) -> None:
    value = "base64:" + base64.b64encode(chunk).decode()
    if metadata["zarr_format"] == 3:
        group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
        refs = {"zarr.json": json.dumps(group), "a/zarr.json": json.dumps(metadata)}
    else:
        refs = {".zgroup": '{"zarr_format":2}', "a/.zarray": json.dumps(metadata),
                "a/.zattrs": '{"_ARRAY_DIMENSIONS":["x"]}'}  # fmt: skip
    path.write_text(json.dumps({"version": 1, "refs": refs | {"a/0": value, "a/1": value}}))


def write_parquet(folder: Path, metadata: Mapping[str, Any], chunk: bytes) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "a").mkdir(parents=True)
    documents = {".zgroup": {"zarr_format": 2}, "a/.zarray": metadata,
                 "a/.zattrs": {"_ARRAY_DIMENSIONS": ["x"]}}  # fmt: skip
    (folder / ".zmetadata").write_text(json.dumps({"metadata": documents, "record_size": 10}))
    # fmt: off
    columns = {"path": pa.array([None, None], pa.string()), "offset": pa.array([0, 0], pa.int64()),
               "size": pa.array([0, 0], pa.int64()), "raw": pa.array([chunk] * 2, pa.binary())}
    # fmt: on
    pq.write_table(pa.table(columns), folder / "a" / "refs.0.parq")


def honest() -> tuple[Mapping[str, Any], bytes]:
    data = numcodecs.Shuffle(8).encode(np.arange(N_ITEMS, dtype="f8"))
    return _zarray(
        [{"id": "shuffle", "elementsize": 8}], {"id": "zlib", "level": 1}
    ), zlib.compress(bytes(data))


def honest_v3() -> tuple[Mapping[str, Any], bytes]:
    codecs = [{"name": "numcodecs.zlib", "configuration": {"level": 1}}]
    return _zarr_json(codecs), zlib.compress(np.arange(N_ITEMS, dtype="f8").tobytes())


# ---- doors


def by_selection(path: Path) -> Any:
    from tiffref.zarr import ZarrTiffStore

    with ZarrTiffStore(path) as store:
        return store[:N_ITEMS].tolist()


def by_zarr(path: Path) -> Any:
    import zarr
    from tiffref.zarr import ZarrTiffStore

    with ZarrTiffStore(path) as store:
        found: Any = zarr.open(store, mode="r")
        return (found if hasattr(found, "shape") else found["a"])[:N_ITEMS].tolist()


def by_engine(path: Path) -> Any:
    import xarray

    with xarray.open_dataset(path, engine="tiffref") as dataset:
        return dataset["a"].values[:N_ITEMS].tolist()


def by_validation(path: Path) -> Any:
    import tiffref

    report = tiffref.validate(path, pixels="all", allow=[str(path.parent)])
    return [] if report.ok or report.findings else "neither"


def by_conversion(path: Path) -> Any:
    from tiffref import catalog

    catalog.convert(path, path.with_name("converted.parq"))
    catalog.convert(path, path.with_name("converted.json"))
    return []


def by_v3(path: Path) -> Any:
    from tiffref.references import References

    References.open(path).to_kerchunk(zarr_format=3)
    return []


def by_appending(path: Path) -> Any:
    import tiffref

    tiffref.append_sequence(path, [str(path.parent / "t1.tif")])
    return []


def by_dask(path: Path) -> Any:
    import xarray

    with xarray.open_dataset(path, engine="tiffref", chunks={}) as dataset:
        return dataset["a"].data[:N_ITEMS].compute(scheduler="synchronous").tolist()


def by_store_of_v3(path: Path) -> Any:
    import zarr
    from tiffref.zarr import ZarrTiffStore

    with ZarrTiffStore(path, zarr_format=3) as store:
        found: Any = zarr.open(store, mode="r")
        return (found if hasattr(found, "shape") else found["a"])[:N_ITEMS].tolist()


def by_keys(path: Path) -> Any:
    from tiffref.zarr import ZarrTiffStore

    with ZarrTiffStore(path) as store:
        assert all(store[key] is not None for key in store.keys())  # noqa: SIM118 - no mapping
        store.fs.cat(store.fs.find(""))
        return []


def by_catalog(path: Path) -> Any:
    """Read a document that took the place of another in a catalog."""
    from tiffref import catalog
    from tiffref.zarr import ZarrTiffStore

    folder = path.parent / "catalog"
    if not folder.exists():
        import tifffile

        tifffile.imwrite(path.parent / "t0.tif", np.zeros((16, 16), "u1"))
        catalog.build([str(path.parent / "t0.tif")], folder)
    if path.suffix != ".json":  # the only document has that format
        return []
    (document,) = (folder / "references").rglob("*.json")
    document.write_bytes(path.read_bytes())
    with ZarrTiffStore(catalog.open(folder, allow="*").references()) as store:
        return store[:N_ITEMS].tolist()


def by_other_commands(path: Path) -> Any:
    """Describe, refresh, write as parquet."""
    import tiffref
    from tiffref.references import References

    references = References.open(path)
    references.info(), repr(references), references._repr_html_()
    tiffref.refresh(path, dry_run=True)
    references.to_parquet(path.with_name("written.parq"))
    return []


DOORS: Mapping[str, Callable[[Path], Any]] = {
    "selection": by_selection, "zarr": by_zarr, "engine": by_engine, "validate": by_validation,
    "convert": by_conversion, "v3": by_v3, "append": by_appending, "dask": by_dask,
    "store of v3": by_store_of_v3, "keys": by_keys, "catalog": by_catalog,
    "commands": by_other_commands,
}  # fmt: skip


def peak_mib() -> int:
    """Return the most memory that this process had; Linux can begin anew, others cannot."""
    import resource

    try:
        text = Path("/proc/self/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) >> 10
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def forget_peak() -> None:
    import contextlib

    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def documents(folder: Path) -> Iterator[tuple[str, Path]]:
    for metadata, chunk, name in ((*honest(), "honest"), (*honest_v3(), "honest v3")):
        write_json(folder / f"{name}.json", metadata, chunk)
        yield f"{name} JSON", folder / f"{name}.json"
    write_parquet(folder / "honest.parq", *honest())
    yield "honest parquet", folder / "honest.parq"
    for number, (name, metadata, chunk) in enumerate(chain(v2_documents(), v3_documents())):
        write_json(folder / f"{number}.json", metadata, chunk)
        yield f"{name}, JSON", folder / f"{number}.json"
        if metadata["zarr_format"] == 2:
            write_parquet(folder / f"{number}.parq", metadata, chunk)
            yield f"{name}, parquet", folder / f"{number}.parq"
    yield from parquet_documents(folder, honest()[0])


def judge(door: str, path: Path) -> tuple[str, int]:
    import tiffref

    forget_peak()
    before = peak_mib()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = DOORS[door](path)
        outcome = "read" if value in ([], [0.0] * N_ITEMS) else f"read {value}"[:60]
    except tiffref.TiffrefError as error:
        outcome = f"refused: {type(error).__name__}: {error}"[:200]
    except Exception as error:
        outcome = f"untyped: {type(error).__name__}: {error}"[:200]
    return outcome, peak_mib() - before


def main(door: str, made: str) -> int:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, hard))  # spares the machine
    found = {}
    for name, path in json.loads(Path(made).read_text()):
        outcome, n_mib = judge(door, Path(path))
        if name.startswith("honest"):
            outcome, n_mib = judge(door, Path(path))  # imports do not count
        found[name] = (outcome, n_mib)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 2:
        raise SystemExit(main(*sys.argv[1:]))
    with tempfile.TemporaryDirectory() as work:
        listed = [(name, str(path)) for name, path in documents(Path(work))]
        Path(work, "made.json").write_text(json.dumps(listed))
        raise SystemExit(
            os.spawnv(
                os.P_WAIT,
                sys.executable,
                [sys.executable, __file__, sys.argv[1], f"{work}/made.json"],
            )
        )
