"""How stages run: the contract of a stage, what it has read, the run, and the lock."""
