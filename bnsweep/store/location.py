"""Where a store is, as its user writes it: a folder or a URL -> its files."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from bnsweep.errors import InputError, UnknownNameError
from bnsweep.paths import home_expanded
from bnsweep.store.filesystem import Files, LocalFiles

__all__ = ["open_files"]


def open_files(location: str | Path) -> Files:
    """The files at a location: a folder or a URL.

    file:///folder, s3://bucket/prefix?endpoint_override=..&scheme=..&region=.., gs://bucket/prefix, or
    abfss://container@account.dfs.core.windows.net/prefix.
    """
    text = str(location)
    if text.startswith("file:"):
        return LocalFiles(_folder_of(text))
    if "://" not in text:
        if not text or "\0" in text:
            raise InputError(f"the location of a store must be a folder or a URL, but got {text!r}")
        return LocalFiles(home_expanded(text).absolute())
    return _bucket_files(text, urlsplit(text))


def _folder_of(text: str) -> Path:
    url = urlsplit(text)
    folder = unquote(url.path)
    if not text.startswith("file://") or url.netloc not in ("", "localhost") or not folder or "\0" in folder:
        raise InputError(
            f"a store on this machine is its folder, or file:// and the folder's whole path, but got {text!r}"
        )
    return Path(folder)


def _bucket_files(text: str, url: SplitResult) -> Files:
    azure = url.scheme == "abfss"  # whose URLs have the container where others have a user
    if url.password or (url.username and not azure):
        raise InputError("a store's location holds no credentials: use the environment or a profile as AWS tools do")
    if url.scheme not in {"s3", "gs", "abfss"}:
        known = ("a folder", "file://", "s3://", "gs://", "abfss://")
        raise UnknownNameError("store location", f"{url.scheme}://", known)
    if azure and not (url.username and ".dfs." in (url.hostname or "")):
        raise InputError(
            "a store's location in Azure names a container and an account, as in "
            f"abfss://container@account.dfs.core.windows.net/prefix, but got {text!r}"
        )
    if not url.netloc:
        raise InputError(f"a store's location names a bucket, as in {url.scheme}://bucket/prefix, but got {text!r}")
    prefix = unquote(url.path).strip("/")
    if ".." in prefix.split("/"):
        raise InputError(f"a store's location has no '..', but got {text!r}")
    if azure:
        from bnsweep.store.azure import AZURE_OPTIONS, AzureFiles

        options = _options(url, AZURE_OPTIONS)
        return AzureFiles(text, str(url.username), str(url.hostname), prefix, options=options)
    if url.scheme == "gs":
        from bnsweep.store.gcs import GCS_OPTIONS, GcsFiles

        return GcsFiles(text, url.netloc, prefix, options=_options(url, GCS_OPTIONS))
    from bnsweep.store.s3 import S3_OPTIONS, S3Files

    return S3Files(text, url.netloc, prefix, options=_options(url, S3_OPTIONS))


def _options(url: SplitResult, valid: tuple[str, ...]) -> dict[str, str]:
    options = dict(parse_qsl(url.query))
    for name in options:
        if name not in valid:
            kind = f"option of {'a' if url.scheme == 'gs' else 'an'} {url.scheme}:// location"
            raise UnknownNameError(kind, name, valid)
    return options
