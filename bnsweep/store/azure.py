"""A store in a container of Azure's: pyarrow reads it, and Azure's own library creates what must be absent."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from pyarrow import fs

from bnsweep.errors import StoreError
from bnsweep.store.filesystem import ObjectFiles

__all__ = ["AZURE_OPTIONS", "AzureFiles"]

AZURE_OPTIONS = ("endpoint_override", "scheme")
KEY, SAS = "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"  # as Azure's own command line names them


class AzureFiles(ObjectFiles):
    """A container of an Azure storage account, abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX.

    Credentials: AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, else what Azure's DefaultAzureCredential finds.
    """

    def __init__(self, location: str, container: str, host: str, prefix: str, *, options: dict[str, str]) -> None:
        account, _, cloud = host.partition(".dfs.")  # not every cloud of Azure's is at core.windows.net
        endpoint = options.get("endpoint_override")
        scheme = options.get("scheme", "https")
        key, sas = os.environ.get(KEY), os.environ.get(SAS)
        arrow = fs.AzureFileSystem(
            account,
            account_key=key,
            sas_token=None if key else sas,
            blob_storage_authority=endpoint or f".blob.{cloud}",
            dfs_storage_authority=endpoint or f".dfs.{cloud}",
            blob_storage_scheme=scheme,
            dfs_storage_scheme=scheme,
        )
        super().__init__(location, f"{container}/{prefix}".rstrip("/"), arrow)
        self._container, self._host, self._prefix, self._options = container, host, prefix, options
        self._account_url = f"{scheme}://" + (f"{endpoint}/{account}" if endpoint else f"{account}.blob.{cloud}")
        self._secret = key or sas

    def __reduce__(self) -> tuple[object, ...]:  # the other process has its own environment, with the secret
        made = partial(AzureFiles, self.location, self._container, self._host, self._prefix, options=self._options)
        return made, ()

    def url(self, name: str) -> str:
        return f"abfss://{self._container}@{self._host}/{self._key(name)}"

    def delete(self, name: str) -> None:
        blob = self._blob(name)
        from azure.core.exceptions import AzureError, ResourceNotFoundError

        try:
            blob.delete_blob()
        except ResourceNotFoundError:
            return
        except AzureError as error:
            raise self._unwritable(name, error) from error

    def _put(self, name: str, data: bytes, *, only_if_absent: bool) -> bool:
        blob = self._blob(name)
        from azure.core.exceptions import AzureError, ResourceExistsError

        try:
            blob.upload_blob(data, overwrite=not only_if_absent)
        except ResourceExistsError:
            return False
        except AzureError as error:
            raise self._unwritable(name, error) from error
        return True

    def _blob(self, name: str) -> Any:
        return self._client.get_blob_client(self._key(name))

    def _connect(self) -> Any:
        """An azure.storage.blob.ContainerClient."""
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
