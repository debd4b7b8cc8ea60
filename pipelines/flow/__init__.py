"""How stages run: the contract of a stage, the state that it keeps, the outcome of a run, and the lock."""
