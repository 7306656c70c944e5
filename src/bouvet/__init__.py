"""bouvet turns a short spec into a bootable disk image for microVMs and proves it by booting it."""

__version__ = "0.1.0"
