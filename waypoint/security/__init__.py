"""Who may do what: tokens, authorization, external authorizers."""
