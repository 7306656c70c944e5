"""The ext4 file system: structures, geometry, checksums, writer and reader."""

from bouvet.formats.ext4.plan import Ext4Options, Ext4Plan, plan_filesystem
from bouvet.formats.ext4.writer import write_filesystem

__all__ = ["Ext4Options", "Ext4Plan", "plan_filesystem", "write_filesystem"]
