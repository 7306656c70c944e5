"""Pack: layers merged into one tree and written as an image; checks on the result."""
