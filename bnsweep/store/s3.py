"""A store in an S3-compatible bucket: pyarrow reads it, and boto3 creates what must be absent."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from pyarrow import fs

from bnsweep.errors import StoreError, StoreUnwritableError
from bnsweep.store.filesystem import KEPT, ObjectFiles

__all__ = ["S3_OPTIONS", "S3Files"]

S3_ATTEMPTS = 8  # of one request that the object store refuses for the moment
CONFLICT_WAITS_S = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
S3_OPTIONS = ("endpoint_override", "scheme", "region")


class S3Files(ObjectFiles):
    """An S3-compatible bucket; credentials come from where AWS tools look for them (environment, profile, role)."""

    def __init__(self, location: str, bucket: str, prefix: str, *, options: dict[str, str]) -> None:
        # Delayed opening makes a small file one PUT instead of a multipart upload.
        retries = fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS)
        arrow = fs.S3FileSystem(
            **options, allow_delayed_open=True, request_timeout=60, connect_timeout=10, retry_strategy=retries
        )
        super().__init__(location, f"{bucket}/{prefix}".rstrip("/"), arrow)
        self._bucket, self._prefix, self._options = bucket, prefix, options

    def __reduce__(self) -> tuple[object, ...]:
        return partial(S3Files, self.location, self._bucket, self._prefix, options=self._options), ()

    def delete(self, name: str) -> None:
        client = self._client
        from botocore.exceptions import BotoCoreError, ClientError

        try:  # pyarrow's own would leave a folder marker
            client.delete_object(Bucket=self._bucket, Key=self._key(name))
        except (BotoCoreError, ClientError) as error:
            raise self._unwritable(name, error) from error

    def _put(self, name: str, data: bytes, *, only_if_absent: bool) -> bool:
        client = self._client
        from botocore.exceptions import BotoCoreError, ClientError

        condition = {"IfNoneMatch": "*"} if only_if_absent else {}
        for wait_s in CONFLICT_WAITS_S:
            try:
                client.put_object(Bucket=self._bucket, Key=self._key(name), Body=data, **condition)
            except ClientError as error:
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                if status == 412:
                    return False
                if status == 409:  # another PUT of this key is under way: who wins is known a little later
                    time.sleep(wait_s)
                    continue
                raise self._unwritable(name, error) from error
            except BotoCoreError as error:
                raise self._unwritable(name, error) from error
            return True
        raise StoreUnwritableError(f"cannot write {self.url(name)}: another write of it does not end. {KEPT}")

    def _connect(self) -> Any:
        """A client of boto3's: it has the conditional PUT that pyarrow lacks."""
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise StoreError(
                f"writing to {self.location} needs boto3, which is not installed: pip install 'bnsweep[s3]'"
            ) from error
        endpoint = self._options.get("endpoint_override")
        region = self._options.get("region")
        # A session of our own: boto3's default one is not for several threads.
        return boto3.session.Session().client(
            "s3",
            endpoint_url=f"{self._options.get('scheme', 'https')}://{endpoint}" if endpoint else None,
            region_name=region or ("us-east-1" if endpoint else None),
            config=Config(
                retries={"mode": "standard", "total_max_attempts": S3_ATTEMPTS},
                connect_timeout=10,
                read_timeout=60,
                s3={"addressing_style": "path"} if endpoint else {},
            ),
        )
