"""The agent's options: what is accepted, and what the refusal of the rest says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.options import (
    CaJoin,
    CaServe,
    KubernetesOption,
    ListenOn,
    SourceOption,
    parse_agent_source,
    parse_ca,
    parse_cgroup,
    parse_duration,
    parse_listen,
    parse_listen_on,
    parse_source,
    parse_trust_domain,
    parse_workers,
)
from mesh.errors import ConfigError
from mesh.model.address import parse_socket_address


def test_a_source(tmp_path: Path) -> None:
    source = parse_source(f"file:{tmp_path}")
    assert source.directory == tmp_path
    assert str(source) == f"file:{tmp_path}"


@pytest.mark.parametrize("text", ["", "file", "file:", "http://x", "kubernetes"])
def test_a_source_of_another_form(text: str) -> None:
    with pytest.raises(ConfigError, match="write file:DIR"):
        parse_source(text)


def test_kubernetes_as_a_source(tmp_path: Path) -> None:
    assert str(parse_agent_source("kubernetes")) == "kubernetes"
    file = tmp_path / "config"
    file.write_text("")
    assert parse_agent_source(f"kubernetes:{file}") == KubernetesOption(kubeconfig=file)
    assert isinstance(parse_agent_source(f"file:{tmp_path}"), SourceOption)
    for wrong in ("kubernetes:", f"kubernetes:{tmp_path}/none"):
        with pytest.raises(ConfigError, match="there is no kubeconfig file"):
            parse_agent_source(wrong)


def test_the_process_file_system_of_the_host(tmp_path: Path) -> None:
    option = parse_agent_source("kubernetes", "/proc")
    assert isinstance(option, KubernetesOption)
    assert option.proc == Path("/proc")
    with pytest.raises(ConfigError, match="no process file system"):
        parse_agent_source("kubernetes", str(tmp_path))


def test_a_source_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a directory"):
        parse_source(f"file:{tmp_path}/none")


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30), ("5m", 300), ("1h", 3600), ("1.5", 1.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1s", "1d", "1 s", "s", "1e3", "٣s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration"):
        parse_duration(text)


def test_workers() -> None:
    assert parse_workers(None) == len(os.sched_getaffinity(0))
    assert parse_workers(3) == 3
    for wrong in (0, -1, 257):
        with pytest.raises(ConfigError, match="use 1 to 256"):
            parse_workers(wrong)


def test_a_directory_that_is_no_cgroup(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a cgroup v2 directory"):
        parse_cgroup(str(tmp_path))
    (tmp_path / "cgroup.procs").touch()
    assert parse_cgroup(str(tmp_path)) == tmp_path


def test_a_trust_domain() -> None:
    assert parse_trust_domain("example.org") == "example.org"
    with pytest.raises(ConfigError, match="--trust-domain"):
        parse_trust_domain("Example/org")


def test_every_address_of_both_families() -> None:
    assert parse_listen_on("--listen", "*:15012") == ListenOn("", 15012)
    assert parse_listen_on("--listen", "[::1]:1") == ListenOn("::1", 1)
    with pytest.raises(ConfigError, match="--listen"):
        parse_listen_on("--listen", "*:0x1")


def test_an_address_to_listen_on() -> None:
    assert parse_listen("--metrics", "[::1]:80") == parse_socket_address("[::1]:80")
    # As a manifest writes it, which does not know the family of a node's address.
    assert parse_listen("--metrics", "[10.0.0.1]:80") == parse_socket_address("10.0.0.1:80")
    with pytest.raises(ConfigError, match="--metrics: 'localhost' is not an IP"):
        parse_listen("--metrics", "localhost:80")


def test_serving_a_ca(tmp_path: Path) -> None:
    assert parse_ca(str(tmp_path), None, None, None) == CaServe(state_dir=tmp_path)
    listening = parse_ca(str(tmp_path), "127.0.0.1:15012", None, None)
    assert listening == CaServe(state_dir=tmp_path, listen=parse_socket_address("127.0.0.1:15012"))


def test_joining_a_ca(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch()
    for address, host in (("ca.example:15012", "ca.example"), ("[fd00::1]:15012", "fd00::1")):
        joined = parse_ca(None, None, address, str(token))
        assert joined == CaJoin(host=host, port=15012, token_file=token)


@pytest.mark.parametrize(
    ("ca", "listen", "address", "token", "message"),
    [
        (None, None, None, None, "give --ca DIR"),
        ("d", None, "h:1", None, "exclude each other"),
        ("d", None, None, "t", "belongs to --ca-address"),
        ("d", "nowhere", None, None, "--ca-listen: 'nowhere'"),
        (None, "127.0.0.1:1", None, None, "--ca-listen needs --ca"),
        (None, None, "h:1", None, "needs --join-token-file"),
        (None, None, "h:1", "/none", "there is no such file"),
        (None, None, "h", __file__, "write HOST:PORT"),
        (None, None, "h:0", __file__, "write HOST:PORT"),
    ],
)
def test_ca_options_that_do_not_fit(
    ca: str | None, listen: str | None, address: str | None, token: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_ca(ca, listen, address, token)


def test_a_root_beside_a_projected_token(tmp_path: Path) -> None:
    token, root = tmp_path / "token", tmp_path / "root.pem"
    token.write_text("t")
    with pytest.raises(ConfigError, match=r"--ca-root-file .*: there is no such file"):
        parse_ca(None, None, "ca.example:15012", str(token), str(root))
    root.write_text("r")
    join = parse_ca(None, None, "ca.example:15012", str(token), str(root))
    assert isinstance(join, CaJoin)
    assert join.root_file == root
    with pytest.raises(ConfigError, match="--ca-root-file needs --ca-address"):
        parse_ca(str(tmp_path), None, None, None, str(root))
