"""What an image shall hold: the model, its loader and the presets."""
