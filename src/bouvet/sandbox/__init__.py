"""Talk: connections to a guest's agent and what is built on them."""

from bouvet.sandbox.client import AgentClient, CallFailed, CallTimeout
from bouvet.sandbox.sandbox import Sandbox
from bouvet.sandbox.transport import NotListening, connect, connect_unix, dial

__all__ = [
    "AgentClient",
    "CallFailed",
    "CallTimeout",
    "NotListening",
    "Sandbox",
    "connect",
    "connect_unix",
    "dial",
]
