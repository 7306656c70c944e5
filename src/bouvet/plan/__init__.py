"""How an image is made: pure steps with digests and reasons."""
