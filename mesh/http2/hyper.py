"""An `h2` connection with our settings in force from its first byte on."""

from __future__ import annotations

import h2.connection
import h2.errors
import h2.exceptions
from h2.config import H2Configuration
from h2.settings import SettingCodes, Settings

from mesh.errors import ConfigError
from mesh.http2.contract import SessionSettings
from mesh.http2.framing import FrameTooLargeError
from mesh.http2.limits import TooMuchError

_DEFAULT_WINDOW = 65535


def open_connection(settings: SessionSettings) -> h2.connection.H2Connection:
    """Raises `ConfigError` for settings outside of the protocol's limits."""
    config = H2Configuration(
        client_side=settings.client, header_encoding=None, normalize_inbound_headers=False
    )
    connection = h2.connection.H2Connection(config)
    values: dict[SettingCodes, int] = {
        SettingCodes.INITIAL_WINDOW_SIZE: settings.stream_window_bytes,
        SettingCodes.MAX_FRAME_SIZE: settings.max_frame_bytes,
        SettingCodes.MAX_HEADER_LIST_SIZE: settings.max_header_list_bytes,
        SettingCodes.MAX_CONCURRENT_STREAMS: settings.max_concurrent_streams,
    }
    if settings.client:
        values[SettingCodes.ENABLE_PUSH] = 0
    try:
        connection.local_settings = Settings(client=settings.client, initial_values=values)
        connection.max_inbound_frame_size = settings.max_frame_bytes
        connection.decoder.max_header_list_size = settings.max_header_list_bytes
        connection.initiate_connection()
        extra = settings.connection_window_bytes - _DEFAULT_WINDOW
        if extra > 0:
            connection.increment_flow_control_window(extra)
    except (h2.exceptions.H2Error, ValueError) as error:
        raise ConfigError(
            f"HTTP/2 settings outside of the protocol's limits: {settings}"
        ) from error
    return connection


def error_code(error: Exception) -> int:
    """What a GOAWAY says of the error (RFC 9113 §7)."""
    if isinstance(error, TooMuchError):
        return int(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
    if isinstance(error, FrameTooLargeError):
        return int(h2.errors.ErrorCodes.FRAME_SIZE_ERROR)
    return int(h2.errors.ErrorCodes.PROTOCOL_ERROR)
