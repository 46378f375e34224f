"""JSON Web Tokens: find them in a request, verify them, say what they mean (RFC 7515 to 7519).

`extract` finds tokens, `token` takes one apart, `keys` reads key sets, `verify` checks a token,
`authenticate` makes a request's outcome of it, `index` merges the rules of a waypoint. `jwks` keeps
keys fresh as a state machine, `fetch` does its I/O. All but `fetch` is pure.

Why no JWT library: pyjwt and joserfc decode leniently where this must not (duplicate JSON members,
base64url with padding or stray bits, unbounded sizes, HMAC reachable from the token's own header),
so each check would have to be made around them anyway. The signatures are `cryptography`'s; only
asymmetric algorithms exist here at all.
"""
