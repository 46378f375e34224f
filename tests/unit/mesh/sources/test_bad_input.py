"""Everything that can be wrong with a file, with the words a person reads."""

from __future__ import annotations

import pytest

from mesh.sources.file_state import FileState, read_text
from mesh.sources.objects import ObjectSet
from mesh.state.reducer import reduce

POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: p
spec:
"""


def problems(text: str) -> list[str]:
    """Read a file and build a snapshot; return its problems as `where: message`."""
    state = read_text("mesh.yaml", text.encode(), FileState())
    snapshot = reduce(ObjectSet(objects=state.objects, problems=state.problems), None)
    return [f"{item.where}: {item.message}" for item in snapshot.problems]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: [", "mesh.yaml:1: no valid YAML: while parsing a flow node, did not find"),
        ("a: 1\nb: 2\na: 3\n", "mesh.yaml:3: duplicate key 'a'"),
        ("a: {<<: {b: 1}}", "mesh.yaml:1: merge keys (<<) are not supported"),
        ("a: !!python/none x", "mesh.yaml:1: tag 'tag:yaml.org,2002:python/none' is not allowed"),
        ("a: &a [*a]", "mesh.yaml:1: nested deeper than 64 levels"),
        ("[" * 65, "mesh.yaml:1: nested deeper than 64 levels"),
        ("\n- 1\n", "mesh.yaml:2: not an object: want apiVersion, kind, metadata"),
        ("apiVersion: v1\nkind: Podd\n", "mesh.yaml:2: kind: unknown kind 'Podd'; did you mean"),
        ("apiVersion: v1\nkind: Xyz\n", "mesh.yaml:2: kind: unknown kind 'Xyz'; known are Auth"),
        ("apiVersion: v2\nkind: Pod\n", "mesh.yaml:1: apiVersion: 'v2' is not the apiVersion of"),
        ("apiVersion: v1\nkind: Pod\n", "mesh.yaml:1: metadata.name: the object needs a name"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: A/b\n",
            "mesh.yaml:4: metadata.name: 'A/b' is not a valid name (RFC 1123 subdomain)",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nstatus:\n  podIP: 1.2.3\n",
            "mesh.yaml:6: status.podIP: '1.2.3' is not an IP address",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n",
            "mesh.yaml:1: the pod has no status.podIP: it joins the mesh when it has one",
        ),
    ],
)
def test_documents_and_objects(text: str, message: str) -> None:
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith(message)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "  actoin: DENY\n",
            "mesh.yaml:6: spec.actoin: unknown field; did you mean 'action'?",
        ),
        (
            "  action: Deny\n",
            "mesh.yaml:6: spec.action: invalid enum value 'Deny'",
        ),
        (
            "  rules:\n  - from:\n    - source:\n        ipBlocks: [10.0.0.0/8, 10.0.0.0/33]\n",
            "mesh.yaml:9: spec.rules[0].from[0].source.ipBlocks[1]: '10.0.0.0/33' is not an IP"
            " address or CIDR block",
        ),
        (
            "  rules:\n  - to:\n    - operation:\n        ports: ['70000']\n",
            "mesh.yaml:9: spec.rules[0].to[0].operation.ports[0]: '70000' is not a port"
            " (1 to 65535)",
        ),
        (
            "  rules:\n  - from:\n    - source:\n        principals:\n        - web\n",
            "mesh.yaml:10: spec.rules[0].from[0].source.principals[0]: 'web' is not a SPIFFE ID"
            " of the form <trust domain>/ns/<namespace>/sa/<account>",
        ),
        (
            "  rules:\n  - from:\n    - source:\n        namespaces: [a*b]\n",
            "mesh.yaml:9: spec.rules[0].from[0].source.namespaces[0]: 'a*b': '*' may stand only"
            " at the start or at the end",
        ),
        (
            "  rules:\n  - when:\n    - key: source.naemspace\n      values: [a]\n",
            "mesh.yaml:8: spec.rules[0].when[0].key: unknown key 'source.naemspace'; did you mean"
            " 'source.namespace'?",
        ),
        (
            "  rules:\n  - when:\n    - key: source.ip\n",
            "mesh.yaml:8: spec.rules[0].when[0].key: a condition needs values or notValues",
        ),
        (
            "  rules:\n  - from:\n    - source:\n        namespaces: [a]\n"
            "        serviceAccounts: [b]\n",
            "mesh.yaml:9: spec.rules[0].from[0].source.namespaces: serviceAccounts and namespaces"
            " exclude each other",
        ),
        (
            "  selector:\n    matchLabels: {a: b}\n  targetRefs: [{kind: Service, name: s}]\n",
            "mesh.yaml:6: spec.selector: selector and targetRefs exclude each other",
        ),
        (
            "  rules:\n  - from: []\n",
            "mesh.yaml:7: spec.rules[0].from: the list is empty: it would match everything.",
        ),
        (
            "  rules:\n  - from:\n    - source: {}\n",
            "mesh.yaml:8: spec.rules[0].from[0].source: source is empty: it would match",
        ),
        ("  action: CUSTOM\n", "mesh.yaml:6: spec.action: CUSTOM needs a provider"),
        (
            "  rules:\n  - to:\n    - operation:\n        paths: [/x]\n",
            "mesh.yaml:1: rules[0] needs a waypoint (to[0].operation.paths): without one, the"
            " rule allows nothing",
        ),
    ],
)
def test_authorization_policies(spec: str, message: str) -> None:
    found = problems(POLICY + spec)
    assert len(found) == 1
    assert found[0].startswith(message)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{portLevelMtls: {80: {mode: STRICT}}}", "spec.portLevelMtls: port modes need a selector"),
        ("{mtls: {mode: STRIKT}}", "spec.mtls.mode: invalid enum value 'STRIKT'"),
        (
            "{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}",
            "spec.portLevelMtls.http: 'http' is not a port (1 to 65535)",
        ),
    ],
)
def test_peer_authentications(spec: str, message: str) -> None:
    text = (
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\n"
        f"spec: {spec}\n"
    )
    assert problems(text) == [f"mesh.yaml:4: {message}"]


def test_an_alias_bomb_is_refused_quickly() -> None:
    levels = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
    (found,) = problems("\n".join(levels))
    assert "more than 200000 values, aliases included" in found


def _pod(name: str, ip: str) -> str:
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\n"
        f"status: {{podIP: {ip}}}\n---\n"
    )


def test_duplicate_name() -> None:
    assert problems(_pod("a", "10.0.0.1") + _pod("a", "10.0.0.2")) == [
        "mesh.yaml:6: duplicate: the object of mesh.yaml:1 counts"
    ]


def test_two_pods_with_one_address() -> None:
    assert problems(_pod("a", "10.0.0.1") + _pod("b", "10.0.0.1")) == [
        "mesh.yaml:6: address 10.0.0.1 belongs to Pod shop/a (mesh.yaml:1)"
    ]


def test_text_that_is_not_utf8() -> None:
    state = read_text("f.yaml", b"a: b\nc: \xff\n", FileState())
    assert [(p.where, p.message) for p in state.problems] == [("f.yaml:2", "not UTF-8 text")]


def test_a_broken_object_keeps_its_last_good_version_and_spares_the_rest() -> None:
    good = read_text("f.yaml", (POLICY + "  action: DENY\n---\n").encode(), FileState())
    text = POLICY + "  action: DNEY\n---\n" + _pod("a", "10.0.0.1")
    broken = read_text("f.yaml", text.encode(), good)
    assert [item.subject for item in broken.objects] == [
        "AuthorizationPolicy default/p",
        "Pod shop/a",
    ]
    assert broken.objects[0] is good.objects[0]
    (problem,) = broken.problems
    assert problem.subject == "AuthorizationPolicy default/p"
    assert problem.message.endswith("(its last good version stays in force)")
    mended = read_text("f.yaml", (POLICY + "  action: ALLOW\n").encode(), broken)
    assert mended.problems == ()
    assert len(mended.objects) == 1


def test_a_broken_file_keeps_all_its_objects() -> None:
    good = read_text("f.yaml", _pod("a", "10.0.0.1").encode(), FileState())
    broken = read_text("f.yaml", b"{", good)
    assert broken.objects == good.objects
    assert "its last good state, 1 object, stays in force" in broken.problems[0].message
    again = read_text("f.yaml", b"{", broken)
    assert again == broken


def test_a_list_is_taken_apart() -> None:
    text = (
        "apiVersion: v1\nkind: List\nitems:\n"
        "- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n"
        "- {apiVersion: v1, kind: Namespace, metadata: {name: b}}\n"
    )
    state = read_text("f.yaml", text.encode(), FileState())
    assert [item.where for item in state.objects] == ["f.yaml:4", "f.yaml:5"]
