"""The child that rehearses a training run: the user's configuration, the image's Axolotl, a model of few layers.

It compares the attention that runs with a plain one on the same batches, and writes what it measured as events. It
never judges.
"""
