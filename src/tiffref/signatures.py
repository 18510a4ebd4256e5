"""What gives access in an address: signatures, tokens, session ids, and names with passwords.

One table has a row for each service: the query parameters that give access, and those that are
useless without them. `public_url` removes both from an address that is written somewhere, and
`redact` hides what gives access in a text that is shown. A link that is secret as a whole, such as
the shares of Nextcloud, remains: without its secret part, it leads nowhere.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple
from urllib.parse import quote, unquote


class _Signature(NamedTuple):
    """Query parameters of a service, as regular expressions.

    `secret` matches names, or names with values ("st=..."), that give access if the address also
    has the parameter `beside`, if any; parameters that match `parts` are useless without it.
    """

    service: str
    secret: str
    parts: str = ""
    beside: str = ""


_SIGNATURES = (
    _Signature(
        "Amazon S3, CloudFront, Google, Alibaba OSS, Tencent COS, Volcengine TOS, Huawei OBS, "
        "Hugging Face, NASA's downloads: each service's reference of signed (presigned) URLs",
        r"[^?&=\s]*(?:signature|accesskeyid|credentials?)|googleaccessid|q-ak|sign|auth_info",
        r"(?:x-(?:amz|goog|oss|cos|ms|tos|obs|xet)|q|a)-.*|key-pair-id|keyname|policy|expires",
    ),
    _Signature(
        "Azure Storage: Create a user delegation SAS, a service SAS and an account SAS",
        "sig",
        r"s[vteprsi]|sip|spr|srt|sdd|ses|scid|s[adku]\w*id|sk\w+",
    ),
    _Signature("OpenStack Swift: TempURL middleware", "temp_url_sig", r"temp_url_\w+"),
    _Signature("Akamai: Auth Token 2.0; EdgeAuth", "hdnea|hdnt[sl]|__(?:gda|cld_token)__|hmac"),
    _Signature("ImageKit: signed URLs", "ik-s", "ik-t"),
    _Signature("nginx: secure_link", "md5", "expires", "expires"),
    _Signature("nginx: secure_link, a digest of 22 characters", r"st=[\w-]{22}", "e", "e"),
    _Signature(
        "nginx, CDN77: secure_link with the time behind it", r"secure=[\w-]{22}(?:={0,2},\d+)?"
    ),
    _Signature("Cloudflare: is_timed_hmac_valid_v0", r"verify=\d{9,11}-.+"),
    _Signature("Dropbox: links to shared files", "rlkey", "st"),
    _Signature("Google Drive: resource keys, API keys", r"resourcekey|key=AIza[\w-]{35}"),
    _Signature(
        "Figshare: private links; OSF: view-only links", r"private_link|view_only=[\da-f]{32}"
    ),
    _Signature("WebHDFS: delegation tokens", "delegation", "", "op"),
    _Signature("iRODS: tickets; dCache: macaroons; Maxar", "ticket|authz|connectid"),
    _Signature(
        "Sessions of Java servlets, PHP and OMERO.web",
        r"(?:j|php)sessionid|phpsessid|bsession|[^?&=\s]*session-?_?(?:id|key)",
    ),
    _Signature(
        "Planet, Mapbox, Zenodo, GitHub, GitLab, Backblaze and many others",
        r"jwt|pwd|[^?&=\s]*(?:token|secret|password|passwd|passphrase|authz?|authorization"
        r"|(?:access|account|api|app|auth|private|secret|subscription)-?_?key)",
        "expires|x-(?:amz|oss|cos)-.*|q-.*",
    ),
)
_PATHS = re.compile(r"/p/([\w-]+)(?=/n/[^/\s]+/b/)|/(?:bcdn_|edge-cache-)token=([^/\s]+)")
"""Tokens in the path: Oracle Cloud, Using Pre-Authenticated Requests; Bunny CDN, URL Token
Authentication; Google Media CDN, Use signed requests."""

_USER = re.compile(
    r"(?<=://)(?<!github://)[^/@\s]*:[^/@\s]*@|(?:(?<=http://)|(?<=https://))[^/@\s?#]+@",
    re.IGNORECASE,
)
_SCHEMES_WITHOUT_USERS = frozenset(
    {"abfs", "abfss", "adl", "az", "data", "file", "git", "github", "libarchive", "local", "memory",
     "reference", "tar", "wasb", "wasbs", "zip"}
)  # fmt: skip
"""Schemes with "@" before a container, a commit, or in the name of a file."""
_LINK = re.compile(r"([\w+.-]+)://([^/?#]*)([^?;#]*)(.*)", re.DOTALL)
"""Scheme, host, path, and parameters."""
_PART = re.compile(r"([?&;#])[?&;#]*([^?&;#]*(?:;[^?&;#=]+(?![^?&;#]))*)")
"""A parameter, whose value may have semicolons: "q-sign-time=1557902800;1557910000"."""
_SUSPICIOUS = re.compile(r"[?@;#]|/p/|token=")
_SHOWN = re.compile(
    r"(?P<name>(?:[?&;#]|%3F|%26)(?P<key>[^?&;#=\s,:)'\"]{1,99}?)(?:=|%3D))"
    r"(?P<value>(?:[^&\s,;:)'\"#]|:(?!\s))+)",
    re.IGNORECASE,
)
"""A parameter in a text, where its value ends before a quotation or punctuation mark."""


def public_url(url: str) -> str:
    """Return a URL without what gives access: signatures, tokens, and user information.

    Examples
    --------
    >>> public_url("https://me:pw@host/a.tif?sig=S&se=2026&versionId=3")
    'https://host/a.tif?versionId=3'
    """
    if "://" not in url or not _SUSPICIOUS.search(url):
        return url
    return "::".join(map(_public_link, url.split("::")))


@functools.lru_cache(maxsize=1024)
def _public_link(link: str) -> str:
    match = _LINK.fullmatch(link)
    if match is None or match[1] == "file":
        return link
    scheme, host, path, query = match.groups()
    if scheme.lower() not in _SCHEMES_WITHOUT_USERS:
        host = host.rpartition("@")[2]
    return f"{scheme}://{host}{_PATHS.sub('', path)}{_public_query(query)}"


def _public_query(query: str) -> str:
    given = _PART.findall(query)
    parts = [(mark, _public_value(part)) for mark, part in given]
    rows = [_find_signature(part, query) for _, part in parts]
    if parts == given and not any(rows):
        return query
    useless = "|".join({row.parts for row in rows if row is not None})
    public, is_first = "", False
    for (mark, part), row in zip(parts, rows, strict=True):
        if row or re.fullmatch(useless, unquote(part.partition("=")[0]), re.IGNORECASE):
            is_first = is_first or mark == "?"
        else:
            public += ("?" if is_first and mark == "&" else mark) + part
            is_first = False
    return public


def _public_value(part: str) -> str:
    """Return a parameter whose value may be another URL, as in requests to a proxy."""
    name, equals, value = part.partition("=")
    plain = unquote(value)
    public = public_url(plain)
    if public == plain:
        return part
    return f"{name}{equals}{public if plain == value else quote(public, safe='')}"


@functools.cache
def _secrets() -> re.Pattern[str]:
    """Return the pattern of parameters that give access, with one group for each row."""
    rows = "|".join(f"({row.secret})" for row in _SIGNATURES)
    return re.compile(f"(?:{rows})(?:=.*)?", re.IGNORECASE | re.DOTALL)


def _find_signature(parameter: str, query: str) -> _Signature | None:
    """Return the row of a parameter that gives access; None if it does not."""
    match = _secrets().fullmatch(unquote(parameter))
    if match is None:
        return None
    row = _SIGNATURES[match.lastindex - 1]  # type: ignore[operator]
    is_whole = not row.beside or re.search(rf"[?&;]{row.beside}=", query, re.IGNORECASE)
    return row if is_whole else None


def redact(text: str) -> str:
    """Hide passwords and signatures of the URLs in a text.

    >>> redact("https://me:pw@host/a.tif?sig=S: no such file")
    'https://***@host/a.tif?sig=***: no such file'
    """
    if "://" not in text:
        return text

    def hide(match: re.Match[str]) -> str:
        nearby = unquote(text[max(0, match.start() - 1000) : match.end() + 1000])
        row = _find_signature(f"{match['key']}={match['value']}", nearby)
        # a value may be another URL, with parameters of its own
        return match["name"] + (_SHOWN.sub(hide, match["value"]) if row is None else "***")

    def hide_token(match: re.Match[str]) -> str:
        return match[0].replace(match[match.lastindex or 0], "***")

    return _SHOWN.sub(hide, _PATHS.sub(hide_token, _USER.sub("***@", text)))
