"""What images.yaml says: parsed once into frozen values, every mistake named with its line."""
