"""The host's half of the guest agent's protocol."""

from bouvet.protocol.framing import (
    HANDSHAKE_LIMIT,
    LINE_LIMIT,
    PORT,
    LineSplitter,
    connect_line,
    decode_connect_answer,
)
from bouvet.protocol.messages import (
    CONTENT_LIMIT,
    OUTPUT_LIMIT,
    OUTPUT_MARK,
    SPAWN_FAILED,
    ErrorCode,
    RequestRefused,
    Response,
    decode_response,
    encode_request,
)
from bouvet.protocol.results import (
    DirectoryEntry,
    ExecResult,
    decode_exec,
    decode_list_dir,
    decode_ping,
    decode_read_file,
    decode_write_file,
)

__all__ = [
    "CONTENT_LIMIT",
    "HANDSHAKE_LIMIT",
    "LINE_LIMIT",
    "OUTPUT_LIMIT",
    "OUTPUT_MARK",
    "PORT",
    "SPAWN_FAILED",
    "DirectoryEntry",
    "ErrorCode",
    "ExecResult",
    "LineSplitter",
    "RequestRefused",
    "Response",
    "connect_line",
    "decode_connect_answer",
    "decode_exec",
    "decode_list_dir",
    "decode_ping",
    "decode_read_file",
    "decode_response",
    "decode_write_file",
    "encode_request",
]
