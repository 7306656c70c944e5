"""Make: the cache of layers and the makers that fill it."""
