"""What an image shall hold: the model, its loader and the presets."""

from bouvet.spec.load import load, presets
from bouvet.spec.model import Spec
from bouvet.spec.values import Architecture, parse_size

__all__ = ["Architecture", "Spec", "load", "parse_size", "presets"]
