"""HAProxy as a pair of sidecars: plain TCP in, mTLS TCP between them, plain TCP out. One thread.

It speaks no HBONE: each connection is one TLS connection.
"""

from __future__ import annotations

from pathlib import Path

from bench.envoy import Side

_DEFAULTS = """
global
  nbthread 1
  maxconn 9000
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
"""


def command(side: Side, folder: Path, *, is_client: bool) -> list[str]:
    """Write certificates and configuration; the command line that runs HAProxy with them."""
    svid, bundle = side.credentials.svid, side.credentials.bundle
    (folder / "own.pem").write_bytes(svid.chain_pem + svid.key_pem)
    (folder / "roots.pem").write_bytes(bundle.roots_pem)
    (folder / "haproxy.cfg").write_text(_config(side, folder, is_client=is_client))
    return ["haproxy", "-db", "-q", "-f", str(folder / "haproxy.cfg")]


def _config(side: Side, folder: Path, *, is_client: bool) -> str:
    tls = f"ssl crt {folder}/own.pem ca-file {folder}/roots.pem verify required"
    inward, outward = ("", tls) if is_client else (tls, "")
    hops = [
        f"""
listen hop{number}
  bind {hop.listen[0]}:{hop.listen[1]} {inward}
  server next {hop.upstream[0]}:{hop.upstream[1]} {outward}
"""
        for number, hop in enumerate(side.hops)
    ]
    return _DEFAULTS + "".join(hops)
