"""Arrays that are told by comparison are those of a scan in full: on all files of the corpus."""

import os
import shutil
import warnings
from pathlib import Path

import pytest

import tiffref
from tiffref.errors import TiffrefError
from tiffref.sequences.files import Part, scan_files

CORPUS = Path(
    os.environ.get("TIFFREF_CORPUS", Path(__file__).parents[3] / "shared/conformance/corpus")
)
OPTIONS = {"series": 0, "level": None, "key": None, "chunkmode": None, "fillvalue": None,
           "storage_options": None}  # fmt: skip
_MAX_BYTES = 4 << 20


@pytest.mark.slow
@pytest.mark.skipif(not CORPUS.is_dir(), reason="no corpus; TIFFREF_CORPUS says where it is")
def test_a_copy_is_told_like_its_original(tmp_path):
    n_told = 0
    files = [path for path in sorted(CORPUS.rglob("*.tif")) if path.stat().st_size < _MAX_BYTES]
    for path in files:
        copy = tmp_path / f"copy_{path.name}"
        shutil.copy(path, copy)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (_, part), _ = scan_files([str(path), str(copy)], OPTIONS)
            try:
                expected = tiffref.scan(copy, series=0)
            except TiffrefError:
                assert part is None
                continue
        if part is not None:
            assert isinstance(part, Part)
            n_told += 1
            for name, array in part.arrays.items():
                full = expected.group[name]
                assert array.manifest == full.manifest, path
                assert (array.shape, array.dims, array.codecs) == (
                    full.shape,
                    full.dims,
                    full.codecs,
                )
        copy.unlink()
    assert n_told
