"""The ext4 file system: structures, geometry, checksums, writer and reader."""

from bouvet.formats.ext4.data import Place, Progress, Span, places, present_spans
from bouvet.formats.ext4.facts import Ext4Facts
from bouvet.formats.ext4.plan import Ext4Options, Ext4Plan, plan_filesystem
from bouvet.formats.ext4.reader import Ext4Reader
from bouvet.formats.ext4.writer import write_filesystem

__all__ = [
    "Ext4Facts",
    "Ext4Options",
    "Ext4Plan",
    "Ext4Reader",
    "Place",
    "Progress",
    "Span",
    "places",
    "plan_filesystem",
    "present_spans",
    "write_filesystem",
]
