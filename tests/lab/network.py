"""The wires of a lab: which address is whose, and the commands that lay them.

Nodes hang on one bridge, which stands in a namespace of its own ("wire"). Each node routes its
pods as a CNI plugin does: a /32 (IPv4) and a /128 (IPv6) per pod, no bridge inside the node.
Nothing ever appears in the machine's own network namespace.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.lab.system import command, ip_batch, write_sysctls

WIRE_BRIDGE = "br0"
UPLINK = "eth0"
POD_LINK = "eth0"
GATEWAY6 = "fe80::1"  # of every pod: the host end of its own veth
MTU = 1500

FORWARD = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv4/conf/all/rp_filter": "0",  # the higher of `all` and the link counts
}
QUICK = {
    # Duplicate address detection would delay every IPv6 address by a second.
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    # After some 27,000 connections to one address TIME_WAIT would fill the port range.
    "net/ipv4/tcp_max_tw_buckets": "256",
}


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """Addresses of node number `index`, from 1 to 254."""

    index: int

    @property
    def underlay4(self) -> str:
        return f"172.31.0.{self.index}"

    @property
    def underlay6(self) -> str:
        return f"fd00:31::{self.index:x}"

    @property
    def gateway4(self) -> str:
        """The node towards its pods: source of health probes, as a kubelet's."""
        return f"10.40.{self.index}.1"

    @property
    def gateway6(self) -> str:
        return f"fd00:40:{self.index:x}::1"

    @property
    def pods4(self) -> str:
        return f"10.40.{self.index}.0/24"

    @property
    def pods6(self) -> str:
        return f"fd00:40:{self.index:x}::/64"

    def pod(self, number: int) -> tuple[str, str]:
        """IPv4 and IPv6 address of the node's pod `number`, from 1 to 250."""
        return f"10.40.{self.index}.{number + 1}", f"fd00:40:{self.index:x}::{number + 1:x}"


def add_netns(name: str) -> None:
    """Make a namespace with its loopback up."""
    command(["ip", "netns", "add", name])
    write_sysctls(name, QUICK)
    ip_batch(name, ["link set lo up"])


def lay_wire(wire: str) -> None:
    """Make the namespace that stands for the network between the nodes."""
    add_netns(wire)
    ip_batch(wire, [f"link add {WIRE_BRIDGE} type bridge stp_state 0 mcast_snooping 0 "])
    ip_batch(wire, [f"link set {WIRE_BRIDGE} up"])


def join_node(wire: str, netns: str, here: NodeAddresses) -> None:
    """Make a node's namespace and plug it into the wire."""
    port = f"node{here.index}"
    add_netns(netns)
    write_sysctls(netns, FORWARD)
    ip_batch(netns, [f"link add {UPLINK} mtu {MTU} type veth peer name {port} netns {wire}"])
    ip_batch(wire, [f"link set {port} master {WIRE_BRIDGE} up"])
    ip_batch(
        netns,
        [
            f"link set {UPLINK} up",
            f"addr add {here.underlay4}/24 dev {UPLINK}",
            f"addr add {here.underlay6}/64 dev {UPLINK} nodad",
            f"addr add {here.gateway4}/32 dev lo",
            f"addr add {here.gateway6}/128 dev lo nodad",
        ],
    )


def route_between(netns: str, there: NodeAddresses) -> None:
    """Tell one node the way to another's pods."""
    ip_batch(
        netns,
        [
            f"route add {there.pods4} via {there.underlay4}",
            f"route add {there.pods6} via {there.underlay6}",
        ],
    )


def plug_pod(node_netns: str, pod_netns: str, here: NodeAddresses, number: int) -> None:
    """Make a pod's namespace, wired to its node."""
    host_link = f"pod{number}"
    address4, address6 = here.pod(number)
    add_netns(pod_netns)
    pair = f"link add {host_link} mtu {MTU} type veth peer name {POD_LINK} netns {pod_netns}"
    ip_batch(node_netns, [pair])
    # A pod that may forge packets must not be able to speak in a neighbour's name.
    write_sysctls(node_netns, {f"net/ipv4/conf/{host_link}/rp_filter": "1"})
    ip_batch(
        node_netns,
        [
            f"link set {host_link} up",
            f"addr add {GATEWAY6}/64 dev {host_link} nodad",
            f"route add {address4}/32 dev {host_link} src {here.gateway4}",
            f"route add {address6}/128 dev {host_link} src {here.gateway6}",
        ],
    )
    ip_batch(
        pod_netns,
        [
            f"link set {POD_LINK} up",
            f"addr add {address4}/32 dev {POD_LINK}",
            f"addr add {address6}/128 dev {POD_LINK} nodad",
            f"route add {here.gateway4} dev {POD_LINK} scope link",
            f"route add default via {here.gateway4} dev {POD_LINK}",
            f"route add default via {GATEWAY6} dev {POD_LINK}",
        ],
    )
