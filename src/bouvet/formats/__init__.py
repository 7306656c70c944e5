"""Bytes: formats that bouvet reads and writes itself."""
