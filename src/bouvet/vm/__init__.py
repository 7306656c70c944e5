"""Boot: kernels, the initramfs and the machines."""
