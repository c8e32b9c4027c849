"""What a start leaves for the next one: verdicts, and what compilers made."""
