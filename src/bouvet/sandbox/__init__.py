"""Talk: connections to a guest's agent and what is built on them."""
