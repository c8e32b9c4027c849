"""Programs that look at an image from its inside, without a GPU: `nox -s inspect` mounts this package and runs them.

Each module prints one JSON document of facts, in the types of `inside.facts`; the host judges them
(docker/attn_matrix/commands/inspection.py). Standard library only: the Python that runs it is the image's own.
"""
