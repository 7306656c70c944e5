"""Virtual machines: kernels, initial file systems, and the monitors that run them.

Nothing is imported here: each machine has a process of one of these modules, whose start a boot waits for.
"""
