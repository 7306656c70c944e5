"""The requirements that can be checked without booting, one module an area."""
