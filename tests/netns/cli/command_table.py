"""How every command is tried: words, what it prints, its schema, and how it is refused."""

from __future__ import annotations

from dataclasses import dataclass

from tests.netns.cli.shopfront import RULE

ANY = -1
"""Ends with what is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One command. `{node}`, `{far}`, `{tmp}`, `{ca}`, `{objects}` and `{turn}` are filled in.

    Attributes:
        says: what its answer for people holds.
        ends: exit code of both.
        schema: name of the schema; empty for a command without JSON.
        wrong: words after the command that must be refused, `fails` the exit code, and `next` what
            the one line about it says: what is wrong, or what to do.
    """

    words: str
    says: str
    ends: int = 0
    schema: str = ""
    wrong: str = ""
    fails: int = 1
    next: str = ""

    def __str__(self) -> str:
        return self.words


ASK = "authz check shop/client shop/web 80 --node {node} --path"
TABLE = (
    Try(
        words="status --node {node}",
        says="ready:",
        schema="status",
        wrong="status --node nobody",
        fails=2,
        next="start it with `meshnode agent`",
    ),
    Try(
        words="check --node {node}",
        says="failed, 0 skipped",
        schema="check",
        wrong="check --cluster --kubeconfig {tmp}/none",
        next="use --kubeconfig FILE",
    ),
    Try(
        words="stat service --since 5m",
        says="shop/web",
        schema="stat",
        wrong="stat --since 2h",
        next="--prometheus URL",
    ),
    Try(
        words="edges --since 5m",
        says="hbone",
        schema="edges",
        wrong="edges --since soon",
        next="soon",
    ),
    Try(words="top --once", says="FROM", schema="top", wrong="top --rows 0", next="--rows"),
    Try(
        words=f"{ASK} /admin/x",
        says=f"denied by {RULE}",
        ends=1,
        schema="authz check",
        wrong="authz check shop/nobody shop/web 80 --node {node}",
        next="shop/nobody",
    ),
    Try(
        words=f"{ASK} /items",
        says="allowed",
        schema="authz check",
        wrong="authz check shop/client shop/web 80 --node {node} --source file:{tmp}/none",
        next="is not a directory",
    ),
    Try(
        words="describe service shop/web --node {node}",
        says="behind waypoint shop/gate",
        schema="describe",
        wrong="describe pod shop/none --node {node}",
        next="shop/none",
    ),
    Try(
        words="describe pod shop/web-v1 --node {node}",
        says="is in the mesh",
        schema="describe",
        wrong="describe planet mars",
        next="is not one of",
    ),
    Try(
        words="describe namespace shop --node {node}",
        says="pods are in the mesh",
        schema="describe",
        wrong="describe namespace shopp --node {node}",
        next="did you mean shop",
    ),
    Try(
        words="routes shop/web --path /x --node {node}",
        says="HTTPRoute/shop/web/all",
        schema="routes",
        wrong="routes shop/none --node {node}",
        next="shop/none",
    ),
    Try(
        words="analyze --source file:{objects}",
        says="",
        ends=ANY,
        schema="analyze",
        wrong="analyze --source file:{tmp}/none",
        next="is not a directory",
    ),
    Try(
        words="connections --node {node}",
        says="AGE",
        schema="connections",
        wrong="connections --node nobody",
        fails=2,
        next="`meshnode check` says what is missing",
    ),
    Try(
        words="certs --node {node}",
        says="valid",
        schema="certs",
        wrong="certs --node nobody",
        fails=2,
        next="start it with",
    ),
    Try(
        words="config dump --node {node}",
        says='"workloads"',
        wrong="config dump --node nobody",
        fails=2,
        next="start it with",
    ),
    Try(
        words="config dump shop/gate",
        says='"in_force"',
        wrong="config dump shop/none",
        next="there are: shop/gate",
    ),
    Try(
        words="config diff --source file:{objects} --node {node}",
        says="difference",
        ends=ANY,
        schema="config diff",
        wrong="config diff a b c",
        next="name two nodes",
    ),
    Try(
        words="log --node {node}",
        says="info",
        schema="log",
        wrong="log --level loud --node {node}",
        next="is not one of",
    ),
    *(
        Try(
            words=f"bpf {name} --node {{node}}",
            says=says,
            schema=f"bpf {name}",
            wrong=f"bpf {name} --node nobody",
            fails=2,
            next="nothing is pinned",
        )
        for name, says in {
            "maps": "mn_workload",
            "progs": "mn_connect4",
            "links": "mn_zt_sockops",
            "enrolled": "client",
            "origdst": "connection",
            "identity": "web-v1",
            "policy": "verdict",
            "service": "shop/web",
            "stats": "row",
            "flows": "flow",
            "drops": "REASON",
            "fsck": "0",
        }.items()
    ),
    Try(
        words="bpf diff --node {node}",
        says="0 differences",
        schema="bpf diff",
        wrong="bpf diff --node nobody",
        fails=2,
        next="start it with",
    ),
    Try(
        words="completion bash",
        says="_MESHNODE_COMPLETE",
        wrong="completion tcsh",
        next="is not one of",
    ),
    Try(
        words="ca init --ca {tmp}/ca-{turn}",
        says="SHA256",
        schema="ca init",
        wrong="ca init --ca {ca}",
        next="choose another directory",
    ),
    Try(
        words="token create n2 --ca {ca}",
        says="",
        schema="token create",
        wrong="token create n2 --ca {tmp}/none",
        next="meshnode ca init",
    ),
    Try(
        words="token list --ca {ca}",
        says="NODE",
        schema="token list",
        wrong="token list",
        next="--ca",
    ),
    Try(
        words="ca roots --ca {ca}",
        says="active",
        schema="ca roots",
        wrong="ca roots",
        next="say which authority",
    ),
    Try(
        words="ca rotate-root --ca {tmp}/ca-{turn}",
        says="SHA256",
        schema="ca rotate-root",
        wrong="ca rotate-root --ca {tmp}/none",
        next="meshnode ca init",
    ),
    Try(
        words="install",
        says="kind: DaemonSet",
        wrong="install --set agent.workers=none",
        next="agent.workers",
    ),
    Try(
        words="uninstall --yes --node gone",
        says="nothing of node gone was left",
        schema="uninstall",
        wrong="uninstall --yes --node {node}",
        next="is running already",
    ),
    Try(words="holder --help", says="--grace", wrong="holder --what", next="required: --node"),
)
ELSEWHERE = {
    "tap": "tests/netns/cli/test_every_command.py",
    "dashboard": "tests/netns/cli/test_every_command.py",
    "bpf monitor": "tests/netns/cli/test_traffic.py",
    "bug-report": "tests/netns/cli/test_every_command.py",
    "token revoke": "tests/netns/cli/test_every_command.py",
    "ca activate-root": "tests/netns/cli/test_every_command.py",
    "enroll": "tests/kube/test_people_commands.py",
    "unenroll": "tests/kube/test_people_commands.py",
    "waypoint apply": "tests/kube/test_people_commands.py",
    "waypoint list": "tests/kube/test_people_commands.py",
    "waypoint status": "tests/kube/test_people_commands.py",
    "waypoint delete": "tests/kube/test_people_commands.py",
    "upgrade": "tests/unit/installer/test_install.py",
    "agent": "runs here",
    "controller": "tests/netns/monitoring/test_dashboards.py",
}
"""Commands that need more than a line, or a cluster: where they are tried."""
