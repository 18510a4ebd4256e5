"""The exception hierarchy, the warnings, and the findings of problems in documents.

Every exception that tiffref raises on purpose is defined here, with its message format: what,
where, got and expected, then what to do. Warnings go through `warn`, so that a caller can collect
the ones of its own thread. Parsers of documents pass each `Finding` to a `report` function: reading
raises the first error, validation collects all. Imports only `signatures`, so that every module can
use it.
"""

from __future__ import annotations

import abc
import contextlib
import difflib
import errno
import functools
import inspect
import itertools
import numbers
import re
import reprlib
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, ParamSpec, TypeVar

from .signatures import redact

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_SCHEMES = ("s3", "gs", "az", "abfs", "http", "https", "ftp", "file", "memory", "zip", "hdfs")
"""Schemes to suggest for a misspelled one."""

_URL_EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}
"""URL scheme -> the extra that installs its file system."""

_EXTRAS = {
    "catalog": "pyarrow shapely",
    "dask": "'dask[array,distributed]'",
    "geo": "pyproj",
    "http": "aiohttp requests",
    "parquet": "pyarrow fastparquet",
    "s3": "s3fs",
    "xarray": "xarray 'dask[array]'",
}
"""Extra -> its packages, named because tiffref itself may not be on the package index."""

_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument '(\w+)'")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Terminal control characters, line separators and bidirectional formatting characters."""


def printable(text: str, keep: str = "") -> str:
    r"""Escape the control characters of a text, except those in `keep`.

    >>> printable("\x1b]0;mine")
    '\\x1b]0;mine'
    """
    if text.isprintable():
        return text
    return _CONTROL.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)


def first_few(texts: Iterable[object], separator: str = ", ") -> str:
    """Join the first three items, with "..." if there are more.

    >>> first_few([1, 2, 3, 4])
    '1, 2, 3, ...'
    """
    shown = [str(text) for text in itertools.islice(texts, 4)]
    return separator.join([*shown[:3], *(["..."] if len(shown) > 3 else [])])


class TiffrefError(Exception):
    """Base class of all errors of this package.

    Parameters
    ----------
    what
        One clause that says what is wrong.
    url
        File or document with the problem.
    ifd
        Image file directory, by index in the file ("3") or by offset ("@1024").
    tag
        TIFF tag by name and number, or the key in a document.
    got, expected
        The value found, and what would have been valid.
    hint
        What to do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        url: str | None = None,
        ifd: int | str | None = None,
        tag: int | str | None = None,
        got: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.url = url
        self.ifd = ifd
        self.tag = tag
        self.got = got
        self.expected = expected
        self.hint = hint

    def __str__(self) -> str:
        ifd = None if self.ifd is None else f"IFD {self.ifd}"
        named = [part for part in (self.url, ifd, self.tag) if part not in (None, "")]
        place = printable(", ".join(map(str, named)))
        parts = [f"{place}: {self.what}" if place else self.what]
        if self.got is not None:
            parts.append(printable(f"got {self.got}"))
        if self.expected is not None:
            parts.append(printable(f"expected {self.expected}"))
        text = ", ".join(parts)
        # a hint on its own line follows a list, which takes no full stop
        stop = "" if (self.hint or "").startswith("\n") else ". "
        return redact(printable(f"{text}{stop}{self.hint}" if self.hint else text, "\n\t"))


class MalformedTiff(TiffrefError, ValueError):
    """The file breaks the TIFF specification, so that its pixels cannot be located."""


class UnsupportedTiff(TiffrefError, ValueError):
    """The file is valid, but references cannot express it."""


class ManifestMismatch(TiffrefError, ValueError):
    """Files, pages or arrays do not combine into one array."""


class InvalidReferences(TiffrefError, ValueError):
    """A document is not a valid reference document."""


class SelectionError(TiffrefError, IndexError, ValueError):
    """A selection does not fit the array."""


class UnknownArgument(SelectionError, TypeError):
    """A function was called with an argument that it does not have."""


class SourceError(TiffrefError, OSError):
    """A source cannot be read; `status` is the HTTP status of the response, if there is one."""

    status: int | None = None


class MissingSource(SourceError, FileNotFoundError):
    """A source does not exist."""

    def __init__(self, what: str, **fields: Any) -> None:
        super().__init__(what, **fields)
        self.errno, self.strerror = errno.ENOENT, what


class StaleSource(SourceError):
    """A source has changed since it was scanned."""


class CatalogError(SourceError):
    """A catalog cannot be built: its folder, its lock, its disk or its workers fail."""


class UntrustedSource(SourceError):
    """A document or a redirect points to a source that is not on the allow-list."""


class MissingExtra(TiffrefError, ImportError):
    """An optional package is needed; the hint names the extra that installs it."""


class MetadataWarning(UserWarning):
    """Metadata was lost or not understood; the pixels are correct.

    Parameters
    ----------
    message
        What is wrong, where, and what to do about it.
    url
        File with the metadata.
    key
        Tag, GeoKey or element by name and number.
    """

    def __init__(self, message: str, url: str | None = None, key: str | None = None) -> None:
        super().__init__(redact(printable(message, "\n\t")))
        self.url = url
        self.key = key


class TruncationWarning(UserWarning):
    """Part of an image lies beyond the end of its file; the rest is correct."""


def install_hint(extra: str) -> str:
    """Return the command that installs the packages of an extra.

    >>> install_hint("geo")
    'pip install pyproj (or tiffref[geo])'
    """
    return f"pip install {_EXTRAS[extra]} (or tiffref[{extra}])"


@contextlib.contextmanager
def requires_extra(extra: str, what: str, url: str | None = None) -> Iterator[None]:
    """Turn a failed import in the `with` block into an error that names the extra to install.

    Raises
    ------
    MissingExtra
        If an import fails.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtra(what, url=url, hint=install_hint(extra)) from error


def with_errno(error: SourceError, cause: BaseException) -> SourceError:
    """Return the error with the `errno` of its cause, such as `EMFILE`."""
    if isinstance(cause, OSError) and cause.errno is not None:
        error.errno, error.strerror = cause.errno, cause.strerror
    return error


def did_you_mean(given: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return a hint that suggests the closest of the known names; None if none is close.

    >>> did_you_mean("patern", ["pattern", "level"])
    'Did you mean pattern?'
    """
    close = difflib.get_close_matches(given, list(known), 1, cutoff)
    return f"Did you mean {close[0]}?" if close else None


_SYNONYMS = {
    "bbox": "bounds", "datetime": "time", "nodata": "fillvalue", "overview_level": "level",
    "pages": "key",
}  # fmt: skip
"""Arguments of other packages (pystac-client, rasterio, rioxarray) -> ours of the same meaning."""


def check_arguments(given: Mapping[str, object], *functions: Callable[..., Any]) -> None:
    """Refuse keyword arguments that a function does not have, or that have another type.

    Parameters
    ----------
    given
        The keyword arguments.
    functions
        The function, and the classes of its further options.

    Raises
    ------
    UnknownArgument
        If one is unknown; the hint suggests the closest name, and where all are listed.
    SelectionError
        If one has a type that its annotation excludes.
    """
    parameters = _parameters(functions)
    unknown = [name for name in given if name not in parameters]
    if unknown:
        name = unknown[0]
        suggestion = did_you_mean(_SYNONYMS.get(name, name), parameters)
        documented = functions[-1] if is_dataclass(functions[-1]) else functions[0]
        hint = f"All are listed by help({_public_name(documented)})."
        what = f"{functions[0].__name__}() has no argument '{name}'"
        raise UnknownArgument(what, hint=f"{suggestion} {hint}" if suggestion else hint)
    for name, value in given.items():
        if not isinstance(value, parameters[name][1]):
            function = _public_name(functions[0]).removesuffix(".__init__")
            raise SelectionError(
                f"wrong type of the argument '{name}' of {function}()",
                got=f"{type(value).__name__} {reprlib.repr(value)}",
                expected=parameters[name][0].replace(" | ", " or "),
            )


class _Items(abc.ABC):  # noqa: B024 - decides by `__subclasshook__`
    """What can be a sequence of arguments: lists, ranges, arrays, mappings; not text."""

    @classmethod
    def __subclasshook__(cls, kind: type) -> bool:
        return hasattr(kind, "__iter__") and not issubclass(kind, str | bytes)


_TYPES: dict[str, tuple[Any, ...]] = {
    "None": (types.NoneType,), "str": (str,), "int": (int, numbers.Integral),
    "float": (float, numbers.Real), "slice": (slice,), "Mapping": (dict, Mapping),
    "Sequence": (_Items,), "Callable": (Callable,), "Progress": (Callable,),
}  # fmt: skip
"""Name in an annotation -> the types that are accepted. Others, such as Any, are not checked here:
paths and documents are where they are opened."""


@functools.cache
def _parameters(
    functions: tuple[Callable[..., Any], ...],
) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """Return the annotation of each parameter, of the first function that has it, and its types."""
    import numpy as np

    known, found = _TYPES | {"bool": (bool, numbers.Integral, np.bool_)}, {}
    for function in reversed(functions):
        for name, parameter in inspect.signature(function).parameters.items():
            annotation = str(parameter.annotation)
            kinds = re.sub(r"\[.*?\]+(?= |$)", "", annotation).split(" | ")
            accepted = tuple(kind for text in kinds for kind in known.get(text, (object,)))
            if parameter.kind is not parameter.VAR_KEYWORD:
                found[name] = annotation, accepted
    return found


def _public_name(item: Callable[..., Any]) -> str:
    """Return the qualified name of a function or class in the package that exports it."""
    name = item.__qualname__.partition(".")[0]  # of a method: its class
    for n in range(item.__module__.count(".")):
        package = ".".join(item.__module__.split(".")[: n + 1])
        exported = getattr(sys.modules[package], "__all__", ())
        if name in exported:
            return f"{package}.{item.__qualname__}"
        for other, value in vars(sys.modules[package]).items():
            if other in exported and getattr(value, "__wrapped__", value) is item:
                return f"{package}.{other}"
    return f"{item.__module__}.{item.__qualname__}"


def checked(
    *further: type,
) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Decorate a function to check its arguments with `check_arguments`.

    Parameters
    ----------
    further
        Classes of its further options. Without any, a function with `**options` checks them itself.
    """

    def decorate(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        parameters = inspect.signature(function).parameters
        positional = [name for name, p in parameters.items() if p.kind < p.VAR_POSITIONAL]
        takes_any = not further and any(p.kind is p.VAR_KEYWORD for p in parameters.values())

        @functools.wraps(function)
        def call(*args: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
            given = dict(zip(positional, args, strict=False)) | options
            if takes_any:
                given = {name: value for name, value in given.items() if name in parameters}
            check_arguments(given, function, *further)
            return function(*args, **options)

        return call

    return decorate


def no_such_index(what: str, index: object, n: int, url: str | None = None) -> SelectionError:
    """Build the error for an index that is out of range.

    >>> print(no_such_index("level", 9, 3, "a.tif"))
    a.tif: level 9 does not exist: the file has levels 0 to 2
    """
    has = f"{what}s 0 to {n - 1}" if n > 1 else f"{what} 0 only" if n else f"no {what}"
    return SelectionError(f"{what} {index!r} does not exist: the file has {has}", url=url)


def unreadable(url: str, error: BaseException, what: str = "cannot be read") -> SourceError:
    """Build the error for a source that cannot be opened or read; raise it from its cause.

    Parameters
    ----------
    url
        URL of the source.
    error
        Exception that the file system raised.
    what
        One clause that says what failed.

    Returns
    -------
    SourceError
        Its hint names the missing extra, if one of this package's.
    """
    if isinstance(error, FileNotFoundError):
        # fsspec raises it for whatever its HTTP client raises
        cause = error.__cause__
        is_of_http = type(cause).__module__.startswith("aiohttp.")
        is_missing = isinstance(cause, FileNotFoundError)
        if is_missing or (is_of_http and getattr(cause, "status", 0) not in (404, 410)):
            return unreadable(url, cause, what)  # type: ignore[arg-type]
        # the missing file may be one inside the folder at `url`
        missing = str(error.filename or "")
        inside = missing.startswith(f"{url.rstrip('/')}/")
        return MissingSource("no such file", url=missing if inside else url)
    reason = str(error)
    if isinstance(error, OSError) and error.strerror and url.endswith(str(error.filename or "")):
        reason = error.strerror  # without the path, which is in the message already
    name = type(error).__name__
    scheme = url.rpartition("::")[2].partition("://")[0]
    if reason.startswith("Protocol not known"):
        close = difflib.get_close_matches(scheme.lower(), _SCHEMES, 1, 0.5)
        hint = f"Did you mean {close[0]}://?" if close else None
        return SourceError(f"no file system is known for {scheme}://", url=url, hint=hint)
    unknown = _UNKNOWN_OPTION.search(reason) if isinstance(error, TypeError) else None
    if unknown is not None:
        return SourceError(
            f"the file system has no option {unknown[1]!r}",
            url=url,
            hint='fsspec cannot open names with "::", as "::" starts another URL.'
            if unknown[1] == "target_options"
            else "Check storage_options, or --storage-option.",
        )
    extra = _URL_EXTRAS.get(scheme) if isinstance(error, ImportError) else None
    source_error = SourceError(
        what,
        url=url,
        got=f"{name}: {reason}" if reason else name,
        hint=None if extra is None else install_hint(extra),
    )
    return with_errno(source_error, error)


def safe_cause(error: BaseException) -> BaseException | None:
    """Return the exception to raise another one from: None if a traceback would then show secrets.

    Clients name whole addresses in their exceptions.
    """
    link: BaseException | None = error
    while link is not None:
        text = str(link)
        if redact(text) != text:
            return None
        link = link.__cause__ or link.__context__
    return error


_MAX_COLLECTED = 20


class CollectedWarnings(list[str]):
    """Messages of warnings; `truncation` is the first `TruncationWarning` among them."""

    truncation: str | None = None


_collected: ContextVar[CollectedWarnings | None] = ContextVar("collected", default=None)
_OWN_MODULES = f"{__package__}."


def warn(warning: Warning) -> None:
    """Issue a warning for the line that called this package, or add it to `collect_warnings`.

    Parameters
    ----------
    warning
        A warning of this package, such as `MetadataWarning`.
    """
    collected = _collected.get()
    if collected is not None and isinstance(warning, TruncationWarning):
        collected.truncation = collected.truncation or str(warning)
    if collected is None:
        n_own, frame = 0, inspect.currentframe()
        while frame is not None and str(frame.f_globals.get("__name__")).startswith(_OWN_MODULES):
            n_own, frame = n_own + 1, frame.f_back
        warnings.warn(warning, stacklevel=n_own + 1)
    elif len(collected) < _MAX_COLLECTED:
        collected.append(str(warning))


@contextlib.contextmanager
def collect_warnings() -> Iterator[CollectedWarnings]:
    """Collect the warnings of this thread instead of issuing them; not those of other threads."""
    collected = CollectedWarnings()
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)


_SIMPLE = re.compile(r"[!-~]+(?: [!-~]+)*")
"""Keys that need no quotes in a message."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem in a document.

    `code` is a short fixed name for programs; `severity` is "error" or "warning"; `key` is the key
    in the document; `n_more` is the number of further keys with the same problem. Signatures and
    passwords in the texts are hidden.
    """

    code: str
    what: str
    key: str | None = None
    got: str | None = None
    expected: str | None = None
    severity: str = "error"
    n_more: int = 0
    hint: str | None = None

    def __post_init__(self) -> None:
        for name in ("what", "got", "expected"):
            text = getattr(self, name)
            if text and "://" in text:
                object.__setattr__(self, name, redact(text))

    @property
    def stage(self) -> str:
        """One of "structure" (see the JSON Schemas), "metadata", "chunks", "sources", "pixels"."""
        return next((name for name, codes in _STAGES.items() if self.code in codes), "metadata")

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain values."""
        return {"code": self.code, "stage": self.stage, **asdict(self)}

    def to_error(self, url: str | None = None) -> InvalidReferences:
        """Return the finding as an error."""
        hint = f"{self.n_more} more keys have the same problem." if self.n_more else self.hint
        return InvalidReferences(
            self.what,
            url=url,
            tag=self.key if self.key is None or _SIMPLE.fullmatch(self.key) else repr(self.key),
            got=self.got,
            expected=self.expected,
            hint=hint,
        )


_STAGES = {
    "structure": ("document", "version", "top-level", "template", "member", "gen", "key",
                  "scalar-key", "base64", "value"),
    "chunks": ("stray", "length"),
    "sources": ("not-allowed", "unreachable", "stale", "range"),
    "pixels": ("undecodable", "pixels", "not-compared"),
}  # fmt: skip
"""Codes by stage; all others are "metadata"."""

Reporter = Callable[[Finding], None]

_TOLERATED = frozenset({"top-level", "scalar-key"})
"""Codes of errors that do not change the meaning of the references."""


def raise_finding(finding: Finding) -> None:
    """Raise a finding that makes a document unusable; the `report` function of reading.

    If the provenance is invalid, warn: later changes of the files will not be noticed.
    """
    if finding.code == "provenance":
        what = f"{finding.what}. Changes of the files since they were scanned are not noticed."
        warn(MetadataWarning(what))
    if finding.severity == "error" and finding.code not in _TOLERATED:
        raise finding.to_error()
