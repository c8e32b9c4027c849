"""What is made from the matrix: the bake file, the specs, the tables. Pure: the same matrix gives the same bytes."""
