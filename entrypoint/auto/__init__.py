"""ATTN_BACKEND=auto: the fastest backend of the image that is right for the run that is about to start.

`candidates` are those that the rules allow, `contest` lets `entrypoint.race` time them on the GPU, `choice` takes one,
`copy` writes the configuration that asks for it, and `start` puts them together.
"""
