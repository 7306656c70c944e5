"""What an image shall hold: the model, its loader and the presets."""

from bouvet.spec.extending import directory_of, presets, starter
from bouvet.spec.load import load
from bouvet.spec.model import Spec
from bouvet.spec.schema import json_schema
from bouvet.spec.values import Architecture, parse_size

__all__ = ["Architecture", "Spec", "directory_of", "json_schema", "load", "parse_size", "presets", "starter"]
