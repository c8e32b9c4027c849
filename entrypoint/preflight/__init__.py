"""What the run that is about to start will do with its attention, by rules: no GPU, no torch, no Axolotl.

`commandline` finds the configuration in the command, `config` reads it as Axolotl does, `model` reads the model's
config.json, `kernel` says which attention runs, `rules` judge it, `advice` finds what to write instead, and `flight`
puts them together. Facts in, findings out: only `config`, `model` and `software` read files.
"""
