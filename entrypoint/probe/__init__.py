"""The measuring child: runs one attention backend on one device and writes what it saw as `entrypoint.events` lines.

It measures and never judges. Importing any module here is cheap and needs no torch: torch and the attention kernels are
imported inside functions, so that their absence is a reason in the report and never a broken import.
"""
