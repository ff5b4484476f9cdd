"""A store in an S3-compatible bucket: pyarrow reads it, and boto3 creates what must be absent."""

from __future__ import annotations

import time
from functools import partial

from pyarrow import fs

from bnsweep.errors import StoreError, StoreUnwritableError
from bnsweep.store.filesystem import ObjectFiles, one_line

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
        self._boto3: S3Client | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return partial(S3Files, self.location, self._bucket, self._prefix, options=self._options), ()

    @property
    def _client(self) -> S3Client:
        if self._boto3 is None:
            self._boto3 = S3Client(self._bucket, options=self._options, location=self.location)
        return self._boto3

    def _key(self, name: str) -> str:
        return self.path(name).removeprefix(f"{self._bucket}/")

    def _put(self, name: str, data: bytes, *, only_if_absent: bool) -> bool:
        return self._client.put(self._key(name), data, only_if_absent=only_if_absent)

    def delete(self, name: str) -> None:
        self._client.delete(self._key(name))


class S3Client:
    """The two requests that pyarrow lacks: one plain or conditional PUT, and a DELETE that leaves no folder marker."""

    def __init__(self, bucket: str, *, options: dict[str, str], location: str) -> None:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise StoreError(
                f"writing to {location} needs boto3, which is not installed: pip install 'bnsweep[s3]'"
            ) from error
        endpoint = options.get("endpoint_override")
        self._bucket, self._location = bucket, location
        self._s3 = boto3.client(
            "s3",
            endpoint_url=f"{options.get('scheme', 'https')}://{endpoint}" if endpoint else None,
            region_name=options.get("region", "us-east-1") if endpoint else options.get("region"),
            config=Config(
                retries={"mode": "standard", "total_max_attempts": S3_ATTEMPTS},
                connect_timeout=10,
                read_timeout=60,
                s3={"addressing_style": "path"} if endpoint else {},
            ),
        )

    def put(self, key: str, data: bytes, *, only_if_absent: bool) -> bool:
        """One PUT; False if it was to be absent and is not."""
        from botocore.exceptions import BotoCoreError, ClientError

        condition = {"IfNoneMatch": "*"} if only_if_absent else {}
        for wait_s in CONFLICT_WAITS_S:
            try:
                self._s3.put_object(Bucket=self._bucket, Key=key, Body=data, **condition)
            except ClientError as error:
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                if status == 412:
                    return False
                if status == 409:  # another PUT of this key is under way: who wins is known a little later
                    time.sleep(wait_s)
                    continue
                raise self._unwritable(key, error) from error
            except BotoCoreError as error:
                raise self._unwritable(key, error) from error
            return True
        raise StoreUnwritableError(f"cannot write s3://{self._bucket}/{key}: another write of it does not end")

    def delete(self, key: str) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._s3.delete_object(Bucket=self._bucket, Key=key)
        except (BotoCoreError, ClientError) as error:
            raise self._unwritable(key, error) from error

    def _unwritable(self, key: str, error: Exception) -> StoreUnwritableError:
        return StoreUnwritableError(f"cannot write s3://{self._bucket}/{key}: {one_line(error)}")
