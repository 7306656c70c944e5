"""Talk: connections to a guest's agent and what is built on them."""

from bouvet.sandbox.client import AgentClient, CallFailed, CallTimeout, ConnectionLost
from bouvet.sandbox.sandbox import Sandbox
from bouvet.sandbox.transport import PAUSE_SECONDS, NotListening, connect, connect_unix, dial

__all__ = [
    "PAUSE_SECONDS",
    "AgentClient",
    "CallFailed",
    "CallTimeout",
    "ConnectionLost",
    "NotListening",
    "Sandbox",
    "connect",
    "connect_unix",
    "dial",
]
