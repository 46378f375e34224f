"""What protects a service and its callers: limits, budgets, judges of endpoints, faults. Pure.

The clock (monotonic seconds) and randomness are arguments everywhere.
"""
