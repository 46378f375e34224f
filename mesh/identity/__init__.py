"""Identity: who may hold which certificate, and how certificates come, renew and go.

Cores without I/O: `csr` (signing requests), `roots` (root rotation), `ca` (the signing rules),
`join` (join tokens), `rotation` (when to renew). Shells: `state_dir` (the CA's files),
`authority` (core and files in step), `server` and `client` (HTTPS), `store` (a node's
certificates). What this package does not do: TLS towards peers, which is the tunnel's work.
"""
