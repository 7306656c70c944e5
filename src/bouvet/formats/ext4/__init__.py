"""The ext4 file system: structures, geometry, checksums, writer and reader."""
