"""A store in a bucket of Google's: pyarrow reads it, and Google's own library creates what must be absent."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from pyarrow import fs

from bnsweep.errors import InputError, StoreError, StoreUnwritableError
from bnsweep.store.filesystem import KEPT, ObjectFiles, one_line

__all__ = ["GCS_OPTIONS", "GcsFiles"]

GCS_OPTIONS = ("endpoint_override", "scheme")
RETRY_LIMIT = timedelta(seconds=60)  # Arrow's own is a quarter of an hour, in which nothing is said


class GcsFiles(ObjectFiles):
    """A bucket of Google Cloud Storage; credentials come from where Google's tools look for them."""

    def __init__(self, location: str, bucket: str, prefix: str, *, options: dict[str, str]) -> None:
        if options and "endpoint_override" not in options:
            raise InputError(
                f"options of a gs:// location are about an endpoint of one's own, but got {location!r}: give "
                "endpoint_override=HOST:PORT too, or no options for Google's"
            )
        # Another endpoint is a server for tests, which asks for no credentials.
        arrow = fs.GcsFileSystem(**options, anonymous=bool(options), retry_time_limit=RETRY_LIMIT)
        super().__init__(location, f"{bucket}/{prefix}".rstrip("/"), arrow)
        self._bucket, self._prefix, self._options = bucket, prefix, options

    def __reduce__(self) -> tuple[object, ...]:
        return partial(GcsFiles, self.location, self._bucket, self._prefix, options=self._options), ()

    def delete(self, name: str) -> None:
        from google.api_core.exceptions import NotFound
        from google.cloud.storage.retry import DEFAULT_RETRY

        try:
            self._blob(name).delete(retry=DEFAULT_RETRY)
        except NotFound:
            return
        except Exception as error:
            raise self._unwritable(name, error) from error

    def _put(self, name: str, data: bytes, *, only_if_absent: bool) -> bool:
        blob = self._blob(name)
        from google.api_core.exceptions import PreconditionFailed
        from google.cloud.storage.retry import DEFAULT_RETRY

        generation = 0 if only_if_absent else None
        try:
            blob.upload_from_string(
                data, content_type="application/octet-stream", if_generation_match=generation, retry=DEFAULT_RETRY
            )
        except PreconditionFailed:
            return False
        except Exception as error:
            raise self._unwritable(name, error) from error
        return True

    def _blob(self, name: str) -> Any:
        return self._client.blob(self._key(name))

    def _connect(self) -> Any:
        """A google.cloud.storage.Bucket."""
        try:
            from google.auth.credentials import AnonymousCredentials
            from google.auth.exceptions import GoogleAuthError
            from google.cloud import storage
        except ImportError as error:
            raise StoreError(
                f"writing to {self.location} needs google-cloud-storage, which is not installed: "
                "pip install 'bnsweep[gcs]'"
            ) from error
        try:
            if not self._options:
                return storage.Client().bucket(self._bucket)
            endpoint = f"{self._options.get('scheme', 'https')}://{self._options['endpoint_override']}"
            client = storage.Client(
                project="none", credentials=AnonymousCredentials(), client_options={"api_endpoint": endpoint}
            )
            return client.bucket(self._bucket)
        except (GoogleAuthError, OSError) as error:
            raise StoreUnwritableError(
                f"cannot write to {self.location}: {one_line(error).rstrip('.')}. {KEPT}"
            ) from error
