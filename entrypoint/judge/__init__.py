"""What the measured numbers mean: budgets, floors, findings and the verdict. Pure; it never measures."""
