"""Talk: connections to a guest's agent and what is built on them."""

from bouvet.protocol import (
    ChangesLost,
    CommandDetails,
    CommandOptions,
    DirectoryEntry,
    Ending,
    ExecResult,
    Exit,
    FileChange,
    FileStat,
    Gap,
    Output,
    RequestRefused,
)
from bouvet.sandbox.client import AgentClient
from bouvet.sandbox.connection import CallFailed, CallTimeout, ConnectionLost, PendingCall
from bouvet.sandbox.files import Files, Watch
from bouvet.sandbox.processes import Processes, ProcessOptions, RemoteProcess, TerminalSize
from bouvet.sandbox.sandbox import Sandbox, connect_client
from bouvet.sandbox.streams import Download, Upload
from bouvet.sandbox.system import System
from bouvet.sandbox.transport import PAUSE_SECONDS, NotListening, connect, connect_unix, dial

__all__ = [
    "PAUSE_SECONDS",
    "AgentClient",
    "CallFailed",
    "CallTimeout",
    "ChangesLost",
    "CommandDetails",
    "CommandOptions",
    "ConnectionLost",
    "DirectoryEntry",
    "Download",
    "Ending",
    "ExecResult",
    "Exit",
    "FileChange",
    "FileStat",
    "Files",
    "Gap",
    "NotListening",
    "Output",
    "PendingCall",
    "ProcessOptions",
    "Processes",
    "RemoteProcess",
    "RequestRefused",
    "Sandbox",
    "System",
    "TerminalSize",
    "Upload",
    "Watch",
    "connect",
    "connect_client",
    "connect_unix",
    "dial",
]
