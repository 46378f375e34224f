"""How commands answer: tables, JSON, exit codes, repetition."""
