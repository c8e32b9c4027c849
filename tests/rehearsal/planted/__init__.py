"""Defects that a Python of an image starts with: mounted, and planted where transformers calls attention.

The environment variable SEEDED names the defect. Nothing here is installed in an image, and nothing of the entrypoint
is touched.
"""
