"""How to reach the API server: a kubeconfig file, or what Kubernetes gives to every pod."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mesh.errors import ConfigError
from mesh.sources.kubernetes.access import ApiAccess, access_of_pod


async def load_configuration(
    kubeconfig: Path | None = None, context: str | None = None
) -> ApiAccess:
    """Read where the API server is and how we prove who we are.

    Args:
        kubeconfig: None = the service account of the pod we run in.
        context: of the kubeconfig; None = its current one.

    Raises `ConfigError`.
    """
    if kubeconfig is not None:
        # In a pod nobody needs the library that reads such files, which takes 40 MB.
        from mesh.sources.kubernetes.kubeconfig import access_of_file

        return await access_of_file(kubeconfig, context)
    try:
        return access_of_pod(os.environ, time.monotonic)
    except ConfigError as error:
        raise ConfigError(
            f"the Kubernetes API cannot be found from here: {error}. "
            "Outside a pod write --source kubernetes:KUBECONFIG"
        ) from error
