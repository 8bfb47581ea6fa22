"""Mutation fuzzing of whatever reads bytes from outside: thousands of inputs in the suite, millions by `make fuzz`."""
