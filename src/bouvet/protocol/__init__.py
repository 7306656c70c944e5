"""The host's half of the guest agent's protocol."""
