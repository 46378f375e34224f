"""What a waypoint says of its requests: records, access log, metrics, spans, tap."""
