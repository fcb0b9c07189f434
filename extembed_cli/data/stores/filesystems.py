"""Object stores: the file system behind a URL, and its errors as ours, with the key and what to set.

Credentials come from where each store's own tools find them: the environment, files of profiles, or the machine's role.
A URL has none (`spec/paths.py` refuses them), so nothing of ours can show them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from extembed_cli.errors import DISK_FULL, InputError, ResourceError, SpecError, first_line

if TYPE_CHECKING:
    from pyarrow import fs  # slow to import, and most runs need none

_CONNECT_SECONDS = 5
_ANSWER_SECONDS = 20
_DENIED = re.compile(r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|EXPIRED_TOKEN|UNAUTHORIZED|\b40[13]\b|[Cc]redential")
_UNREACHABLE = re.compile(r"NETWORK_CONNECTION|REQUEST_TIMEOUT|curlCode|[Cc]onnect")
_REQUEST = re.compile(r"\s*\(Request ID: [^)]*\)")


class Store(NamedTuple):
    """A file system and a path in it, which begins with the bucket or container."""

    fs: fs.FileSystem
    scheme: str
    path: str

    def url(self, path: str) -> str:
        """Return the URL of another path in the store."""
        return f"{self.scheme}://{path}"


def is_url(text: str) -> bool:
    """Whether a path names an object of a store."""
    return "://" in text


def open_store(url: str) -> Store:
    """Return the store of a URL and the path in it, without a request, except for the region of a bucket on AWS."""
    scheme, _, path = url.partition("://")
    path = path.rstrip("/")
    if scheme in _NOT_OURS or scheme != scheme.lower():
        raise SpecError(f"{url}: {_NOT_OURS.get(scheme.lower(), f'write {scheme.lower()}://')}")
    if not path:
        raise SpecError(f"{url}: names no bucket")
    return Store(*_OPEN.get(scheme, _by_fsspec)(scheme, path))


@contextmanager
def asking(url: str, label: str = "", *, to_write: bool = False) -> Iterator[None]:
    """Turn the errors of a store into one that names the object: `InputError`, or of a write `ResourceError`."""
    where = f"{label}: {url}" if label else url
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise (ResourceError if to_write else InputError)(f"{where}: {_reason(url, error)}") from error
    except (ValueError, ImportError) as error:  # Arrow's errors about arguments are ValueErrors
        raise SpecError(f"{where}: {_line(error)}") from error


def _reason(url: str, error: OSError) -> str:
    text = str(error)
    bucket = urlsplit(url).netloc
    if "NO_SUCH_BUCKET" in text:
        return f"there is no bucket `{bucket}`"
    if isinstance(error, FileNotFoundError):
        return "no such object"
    if isinstance(error, PermissionError) or _DENIED.search(text):
        lacking = _lacking_credentials(url)
        return lacking or f"access denied with the credentials that were found ({_line(error)})"
    if _UNREACHABLE.search(text):
        return f"the store cannot be reached, or the connection was cut ({_line(error)}). Run again"
    return _line(error)


def _lacking_credentials(url: str) -> str | None:
    """Return what to set if the usual places have no credentials for a store; None if one has."""
    scheme = url.partition("://")[0]
    if scheme not in _PLACES:
        return None
    variables, files, hint = _PLACES[scheme]
    if any(os.environ.get(name) for name in variables) or any(Path(name).expanduser().exists() for name in files):
        return None
    return f"access denied, and no credentials were found: set {hint}"


_PLACES: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "s3": (
        ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        ("~/.aws/credentials", "~/.aws/config"),
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    ),
    "gs": (
        ("GOOGLE_APPLICATION_CREDENTIALS",),
        ("~/.config/gcloud/application_default_credentials.json",),
        "GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
    ),
    "az": (
        ("AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_ID"),
        ("~/.azure",),
        "AZURE_STORAGE_KEY or AZURE_CLIENT_ID, or run `az login`",
    ),
    "hf": (("HF_TOKEN",), ("~/.cache/huggingface/token",), "HF_TOKEN, or run `hf auth login`"),
}
"""Variables and files that may have credentials, and what to set, by scheme"""


def _line(error: Exception) -> str:
    return _REQUEST.sub("", first_line(error)).rstrip(".")


def _s3(scheme: str, path: str) -> tuple[fs.FileSystem, str, str]:
    from pyarrow import fs  # noqa: PLC0415

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    options: dict[str, Any] = {}
    if endpoint:
        parts = urlsplit(endpoint)
        options = {"endpoint_override": parts.netloc + parts.path.rstrip("/"), "scheme": parts.scheme}
        region = region or "us-east-1"
    elif not region and not os.environ.get("AWS_PROFILE"):
        region = fs.resolve_s3_region(path.partition("/")[0])
    store = fs.S3FileSystem(region=region, connect_timeout=_CONNECT_SECONDS, request_timeout=_ANSWER_SECONDS, **options)
    return store, scheme, path


def _gs(scheme: str, path: str) -> tuple[fs.FileSystem, str, str]:
    from pyarrow import fs  # noqa: PLC0415

    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    options: dict[str, Any] = {}
    if emulator:
        parts = urlsplit(emulator if "://" in emulator else f"http://{emulator}")
        options = {"endpoint_override": parts.netloc, "scheme": parts.scheme, "anonymous": True}
    return fs.GcsFileSystem(**options), scheme, path


def _az(scheme: str, path: str) -> tuple[fs.FileSystem, str, str]:
    from pyarrow import fs  # noqa: PLC0415

    account = os.environ.get("AZURE_STORAGE_ACCOUNT")
    if not account:
        raise ValueError("set AZURE_STORAGE_ACCOUNT to the name of the storage account")
    key, token = os.environ.get("AZURE_STORAGE_KEY"), os.environ.get("AZURE_STORAGE_SAS_TOKEN")
    return fs.AzureFileSystem(account, account_key=key, sas_token=token), scheme, path


_HADOOPS = "s3a:// and s3n:// are Hadoop's names; write s3://"
_OF_THE_WEB = "files of web servers are not read; download it, and name the file"
_NOT_OURS = {"s3a": _HADOOPS, "s3n": _HADOOPS, **dict.fromkeys(("http", "https", "ftp"), _OF_THE_WEB)}
"""What to do about a scheme that is none of a store"""


def _by_fsspec(scheme: str, path: str) -> tuple[fs.FileSystem, str, str]:
    """Return a file system of fsspec, which knows more stores if their libraries are installed."""
    from pyarrow import fs  # noqa: PLC0415

    try:
        import fsspec  # noqa: PLC0415

        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme))), scheme, path
    except (ImportError, ValueError) as error:
        lacks_fsspec = isinstance(error, ImportError) and error.name == "fsspec"
        needed = "huggingface_hub" if scheme == "hf" else "fsspec" if lacks_fsspec else ""
        hint = f": pip install {needed}" if needed else ""
        raise ImportError(f"`{scheme}://` cannot be opened ({_line(error)}){hint}") from None


_OPEN: dict[str, Callable[[str, str], tuple[fs.FileSystem, str, str]]] = {"s3": _s3, "gs": _gs, "az": _az}
