"""External authorizers: who decides CUSTOM policies.

`answer` is what they may say, `http_check` and `grpc_check` are the two ways to ask (pure),
`messages` the protobuf messages of the second, `ask` does it through the pool.
"""
