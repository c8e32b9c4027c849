"""The child that times attention as the run will call it: each backend through the function that transformers calls.

It measures and never judges: what is right and what is fastest is for `entrypoint.auto`, which starts it.
"""
