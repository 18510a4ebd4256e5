"""The exception tree.

Owns every error type that tiffref raises on purpose, and how such an error reads: what, where,
got and expected, then what to do. Warnings are given through `warn`, so that a caller can collect
those of its own thread. It imports nothing of ours, so that every room can use it.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import functools
import inspect
import itertools
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import is_dataclass
from typing import Any, ParamSpec, TypeVar

__all__ = [
    "CatalogError",
    "InvalidReferences",
    "MalformedTiff",
    "ManifestMismatch",
    "MetadataWarning",
    "MissingExtra",
    "MissingSource",
    "SelectionError",
    "SourceError",
    "StaleSource",
    "TiffrefError",
    "TruncationWarning",
    "UnknownArgument",
    "UnsupportedTiff",
    "UntrustedSource",
    "check_arguments",
    "collect_warnings",
    "did_you_mean",
    "first_few",
    "install_hint",
    "names_arguments",
    "needs",
    "printable",
    "unreadable",
    "warn",
    "with_errno",
]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_SCHEMES = ("s3", "gs", "az", "abfs", "http", "https", "ftp", "file", "memory", "zip", "hdfs")
"""Schemes that people mean."""

_URL_EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}
"""Scheme of a URL, and the extra that installs its file system."""

_EXTRAS = {
    "catalog": "pyarrow",
    "dask": "'dask[array,distributed]'",
    "geo": "pyproj",
    "http": "aiohttp requests",
    "parquet": "pyarrow fastparquet",
    "s3": "s3fs",
    "xarray": "xarray 'dask[array]'",
}
"""Extras, and their packages: tiffref itself need not come from where pip looks."""


_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument '(\w+)'")


_USER = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*@")
_SECRET = re.compile(
    r"([?&](?:x-(?:amz|goog|oss|cos|ms)-(?:signature|credential|security-token)|sig|signature"
    r"|[\w-]*(?:token|secret|password|passwd|api[-_]?key|auth)|awsaccesskeyid|hdnea|hdnts|hmac|jwt"
    r")=)(?:[^&\s,;:)'\"#]|:(?!\s))+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Hide passwords and signatures in the addresses of a text.

    >>> redact("https://me:pw@host/a.tif?sig=S: no such file")
    'https://***@host/a.tif?sig=***: no such file'
    """
    return _SECRET.sub(r"\1***", _USER.sub("***@", text)) if "://" in text else text


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that tell a terminal what to do, or in which order to show others."""


def printable(text: str, kept: str = "") -> str:
    r"""Spell the control characters of a text, save for those that are `kept`.

    >>> printable("\x1b]0;mine")
    '\\x1b]0;mine'
    """
    if text.isprintable():
        return text
    return _CONTROL.sub(lambda found: found[0] if found[0] in kept else ascii(found[0])[1:-1], text)


def first_few(texts: Iterable[object], separator: str = ", ") -> str:
    """Name the first three of many things.

    >>> first_few([1, 2, 3, 4])
    '1, 2, 3, ...'
    """
    shown = [str(text) for text in itertools.islice(texts, 4)]
    return separator.join([*shown[:3], *(["..."] if len(shown) > 3 else [])])


class TiffrefError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    what
        One clause that says what is wrong.
    url
        File or document the problem is in.
    ifd
        Image file directory, by index in the file ("3") or by position ("@1024").
    tag
        TIFF tag by name and number, or the key of a document.
    got, expected
        The value that was found, and what would have been right.
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
        where = [
            text
            for text, value in (
                (printable(f"{self.url}"), self.url),
                (f"IFD {self.ifd}", self.ifd),
                (printable(f"{self.tag}"), self.tag),
            )
            if value is not None
        ]
        parts = [f"{', '.join(where)}: {self.what}" if where else self.what]
        if self.got is not None:
            parts.append(printable(f"got {self.got}"))
        if self.expected is not None:
            parts.append(printable(f"expected {self.expected}"))
        text = ", ".join(parts)
        # a hint in a line of its own follows a list, which needs no full stop
        stop = "" if (self.hint or "").startswith("\n") else ". "
        return redact(printable(f"{text}{stop}{self.hint}" if self.hint else text, "\n\t"))

    def __reduce__(self) -> tuple:
        # keyword-only fields do not survive the default way through worker processes
        return _rebuild, (type(self), self.what, dict(self.__dict__))


def _rebuild(kind: type[TiffrefError], what: str, fields: dict) -> TiffrefError:
    error = kind(what)
    error.__dict__.update(fields)
    return error


class MalformedTiff(TiffrefError, ValueError):
    """The file breaks the TIFF specification, so that its pixels cannot be located."""


class UnsupportedTiff(TiffrefError, ValueError):
    """The file is right, but references cannot express it."""


class ManifestMismatch(TiffrefError, ValueError):
    """Files, pages or arrays do not combine into one array."""


class InvalidReferences(TiffrefError, ValueError):
    """A document is not a valid reference document."""


class SelectionError(TiffrefError, IndexError, ValueError):
    """A selection does not fit the array."""


class UnknownArgument(SelectionError, TypeError):
    """A function was called with an argument that it does not take."""


class SourceError(TiffrefError, OSError):
    """A source cannot be read."""


class MissingSource(SourceError, FileNotFoundError):
    """A source does not exist."""

    def __init__(self, what: str, **fields: Any) -> None:
        super().__init__(what, **fields)
        self.errno, self.strerror = errno.ENOENT, what


class StaleSource(SourceError):
    """A source is no longer what it was when it was scanned."""


class CatalogError(SourceError):
    """A catalog cannot be built: its folder, its lock, its disk or its workers fail."""


class UntrustedSource(SourceError):
    """A document, or a redirect, names a source outside the addresses that may be read."""


class MissingExtra(TiffrefError, ImportError):
    """An optional package is needed; the hint names the extra that installs it."""


class MetadataWarning(UserWarning):
    """Metadata was lost or not understood; the pixels are right.

    Parameters
    ----------
    message
        What, where, and what to do about it.
    url
        File that the metadata is in.
    key
        Tag, GeoKey or element by name and number.
    """

    def __init__(self, message: str, url: str | None = None, key: str | None = None) -> None:
        super().__init__(redact(printable(message, "\n\t")))
        self.url = url
        self.key = key


class TruncationWarning(UserWarning):
    """Part of an image lies beyond the end of its file; the rest is right."""


def install_hint(extra: str) -> str:
    """Return the command that installs the packages of an extra.

    >>> install_hint("geo")
    'pip install pyproj (or tiffref[geo])'
    """
    return f"pip install {_EXTRAS[extra]} (or tiffref[{extra}])"


@contextlib.contextmanager
def needs(extra: str, what: str, url: str | None = None) -> Iterator[None]:
    """Say which extra installs what the imports inside did not find.

    Raises
    ------
    MissingExtra
        If an import fails.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtra(what, url=url, hint=install_hint(extra)) from error


def with_errno(made: SourceError, error: BaseException) -> SourceError:
    """Return an error with the number of the one that it is made of, as `EMFILE`."""
    if isinstance(error, OSError) and error.errno is not None:
        made.errno, made.strerror = error.errno, error.strerror
    return made


def did_you_mean(given: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return a hint that names the nearest of the known names; None if none is near.

    >>> did_you_mean("patern", ["pattern", "level"])
    'Did you mean pattern?'
    """
    near = difflib.get_close_matches(given, list(known), 1, cutoff)
    return f"Did you mean {near[0]}?" if near else None


def check_arguments(given: Iterable[str], *takers: Callable[..., Any]) -> None:
    """Refuse arguments by name that a function does not take.

    Parameters
    ----------
    given
        Their names.
    takers
        The function, and the classes of its further options.

    Raises
    ------
    UnknownArgument
        If one is unknown; the hint names the nearest one, and where all are listed.
    """
    for name in given:
        known = _parameters(takers)
        if name not in known:
            near = did_you_mean(name, known)
            page = takers[-1] if is_dataclass(takers[-1]) else takers[0]
            hint = f"All are listed by help({_public_name(page)})."
            what = f"{takers[0].__name__}() has no argument '{name}'"
            raise UnknownArgument(what, hint=f"{near} {hint}" if near else hint)


@functools.cache
def _parameters(takers: tuple[Callable[..., Any], ...]) -> list[str]:
    parameters = (one for taker in takers for one in inspect.signature(taker).parameters.values())
    return [one.name for one in parameters if one.kind is not one.VAR_KEYWORD]


def _public_name(one: Callable[..., Any]) -> str:
    """Return the name by which users find a function or class, in the package that lists it."""
    name = one.__qualname__.partition(".")[0]  # of a method, its class
    for n in range(one.__module__.count(".")):
        package = ".".join(one.__module__.split(".")[: n + 1])
        if name in getattr(sys.modules[package], "__all__", ()):
            return f"{package}.{one.__qualname__}"
    return f"{one.__module__}.{one.__qualname__}"


def names_arguments(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Let a function refuse arguments that it does not take by `check_arguments`."""
    known = inspect.signature(function).parameters.keys()

    @functools.wraps(function)
    def call(*args: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        if not options.keys() <= known:
            check_arguments(options, function)
        return function(*args, **options)

    return call


def no_such(what: str, index: object, n: int, url: str | None = None) -> SelectionError:
    """Make the error for an index beyond what a file has.

    >>> print(no_such("level", 9, 3, "a.tif"))
    a.tif: level 9 does not exist: the file has levels 0 to 2
    """
    has = f"{what}s 0 to {n - 1}" if n > 1 else f"{what} 0 only" if n else f"no {what}"
    return SelectionError(f"{what} {index} does not exist: the file has {has}", url=url)


def unreadable(url: str, error: BaseException, what: str = "cannot be read") -> SourceError:
    """Make the error that says that a source cannot be reached, to be raised from its cause.

    Parameters
    ----------
    url
        Of the source.
    error
        What its file system raised.
    what
        One clause that says what could not be done.

    Returns
    -------
    SourceError
        Its hint names the extra that is missing, if it is one of ours.
    """
    if isinstance(error, FileNotFoundError):
        # of a folder that is read, the file in it that is not there
        missing = str(error.filename or "")
        inside = missing.startswith(f"{url.rstrip('/')}/")
        return MissingSource("no such file", url=missing if inside else url)
    reason = str(error)
    if isinstance(error, OSError) and error.strerror and url.endswith(str(error.filename or "")):
        reason = error.strerror  # without the path, which the message has already
    name = type(error).__name__
    scheme = url.rpartition("::")[2].partition("://")[0]
    if reason.startswith("Protocol not known"):
        near = difflib.get_close_matches(scheme, _SCHEMES, 1, 0.5)
        hint = f"Did you mean {near[0]}://?" if near else None
        return SourceError(f"no file system is known for {scheme}://", url=url, hint=hint)
    unknown = _UNKNOWN_OPTION.search(reason) if isinstance(error, TypeError) else None
    if unknown is not None:
        return SourceError(
            f"the file system has no option {unknown[1]!r}",
            url=url,
            hint="Check storage_options, or --storage-option.",
        )
    extra = _URL_EXTRAS.get(scheme) if isinstance(error, ImportError) else None
    made = SourceError(
        what,
        url=url,
        got=f"{name}: {reason}" if reason else name,
        hint=None if extra is None else install_hint(extra),
    )
    return with_errno(made, error)


_MAX_COLLECTED = 20


class Collected(list[str]):
    """Texts of warnings; `truncation` is the first that says that pixels are not there."""

    truncation: str | None = None


_collected: ContextVar[Collected | None] = ContextVar("collected", default=None)


def warn(warning: Warning, stacklevel: int = 1) -> None:
    """Warn, or add the text to those that this thread collects.

    Parameters
    ----------
    warning
        One of ours, as `MetadataWarning`.
    stacklevel
        As of `warnings.warn`: 1 is whoever calls this.
    """
    found = _collected.get()
    if found is not None and isinstance(warning, TruncationWarning):
        found.truncation = found.truncation or str(warning)
    if found is None:
        warnings.warn(warning, stacklevel=stacklevel + 1)
    elif len(found) < _MAX_COLLECTED:
        found.append(str(warning))


@contextlib.contextmanager
def collect_warnings() -> Iterator[Collected]:
    """Collect what this thread warns of instead of showing it; other threads are left alone."""
    found = Collected()
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)
