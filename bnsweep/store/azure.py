"""A store in a container of Azure's: pyarrow reads it, and Azure's own library creates what must be absent."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from pyarrow import fs

from bnsweep.errors import StoreError, StoreUnwritableError
from bnsweep.store.filesystem import ObjectFiles, one_line

__all__ = ["AZURE_OPTIONS", "AzureFiles"]

AZURE_OPTIONS = ("endpoint_override", "scheme")
KEY, SAS = "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"  # as Azure's own command line names them


class AzureFiles(ObjectFiles):
    """A container of an Azure storage account, abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX.

    Credentials: AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, else what Azure's DefaultAzureCredential finds.
    """

    def __init__(self, location: str, container: str, host: str, prefix: str, *, options: dict[str, str]) -> None:
        account = host.partition(".")[0]
        endpoint = options.get("endpoint_override")
        secrets = {
            name: os.environ[key] for name, key in (("account_key", KEY), ("sas_token", SAS)) if key in os.environ
        }
        arrow = fs.AzureFileSystem(
            account,
            **dict(list(secrets.items())[:1]),
            **{f"{kind}_storage_authority": endpoint for kind in ("blob", "dfs") if endpoint},
            **{f"{kind}_storage_scheme": options["scheme"] for kind in ("blob", "dfs") if "scheme" in options},
        )
        super().__init__(location, f"{container}/{prefix}".rstrip("/"), arrow)
        self._container, self._host = container, host
        scheme = options.get("scheme", "https")
        self._account_url = (
            f"{scheme}://{endpoint}/{account}"
            if endpoint
            else f"{scheme}://{account}.blob.{host.partition('.dfs.')[2]}"
        )
        self._secret = next(iter(secrets.values()), None)
        self._opened: Any = None  # an azure.storage.blob.ContainerClient

    def url(self, name: str) -> str:
        path = self.path(name).removeprefix(f"{self._container}/")
        return f"abfss://{self._container}@{self._host}/{path}"

    def write(self, name: str, data: bytes | memoryview) -> None:
        self._put(name, bytes(data), overwrite=True)

    def create(self, name: str, data: bytes) -> bool:
        if self._put(name, data, overwrite=False):
            return True
        # The answer to a PUT that was carried out may be lost and the PUT repeated: then what is there is ours.
        with suppress(FileNotFoundError):
            return self.read(name) == data
        return False

    def delete(self, name: str) -> None:
        blob = self._blob(name)
        from azure.core.exceptions import AzureError, ResourceNotFoundError

        try:
            blob.delete_blob()
        except ResourceNotFoundError:
            return
        except AzureError as error:
            raise self._unwritable(name, error) from error

    def _put(self, name: str, data: bytes, *, overwrite: bool) -> bool:
        """One upload, seen when all of it is there; False if it was to be absent and is not."""
        blob = self._blob(name)
        from azure.core.exceptions import AzureError, ResourceExistsError

        try:
            blob.upload_blob(data, overwrite=overwrite)
        except ResourceExistsError:
            return False
        except AzureError as error:
            raise self._unwritable(name, error) from error
        return True

    def _blob(self, name: str) -> Any:
        if self._opened is None:
            self._opened = self._open()
        return self._opened.get_blob_client(self.path(name).removeprefix(f"{self._container}/"))

    def _open(self) -> Any:
        try:
            from azure.identity import DefaultAzureCredential
            from azure.storage.blob import ContainerClient
        except ImportError as error:
            raise StoreError(
                f"writing to {self.location} needs azure-storage-blob and azure-identity, which are not installed: "
                "pip install 'bnsweep[azure]'"
            ) from error
        return ContainerClient(
            self._account_url,
            self._container,
            credential=self._secret or DefaultAzureCredential(),
            logging_enable=False,
        )

    def _unwritable(self, name: str, error: Exception) -> StoreUnwritableError:
        return StoreUnwritableError(f"cannot write {self.url(name)}: {one_line(error)}")
