"""The numbers under which people look a problem up. A number is never used for something else.

MN00xx objects that cannot be read, MN01xx workloads and services, MN02xx policies, MN03xx routes,
MN04xx traffic policies, MN05xx waypoints.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """What kind of problem it is."""

    UNREADABLE = "MN0001"
    """The object, or its file, cannot be read."""
    SOURCE = "MN0002"
    """The source cannot be read as a whole, or not a kind of it."""
    DUPLICATE = "MN0003"
    SECOND_CONFIG = "MN0004"

    BAD_LABEL = "MN0101"
    """A label or annotation of ours whose value means nothing."""
    NO_ADDRESS = "MN0102"
    NO_IDENTITY = "MN0103"
    NO_ACCOUNT = "MN0104"
    ADDRESS_TAKEN = "MN0105"
    VIP_TAKEN = "MN0106"
    LOOSE_SLICE = "MN0107"
    NO_ENDPOINTS = "MN0108"

    TARGET_FORBIDDEN = "MN0201"
    TARGET_UNSUPPORTED = "MN0202"
    TARGET_MISSING = "MN0203"
    TARGET_WITHOUT_WAYPOINT = "MN0204"
    UNKNOWN_PROVIDER = "MN0205"
    RULE_UNSUPPORTED = "MN0206"
    NEEDS_TARGET = "MN0207"
    RULE_NEEDS_WAYPOINT = "MN0208"
    BAD_KEY = "MN0209"
    NO_KEY = "MN0210"
    SELECTS_NOTHING = "MN0211"
    DENIES_ALL = "MN0212"

    NO_SERVICE_PARENT = "MN0301"
    RULE_DROPPED = "MN0302"
    RULE_FAILS = "MN0303"
    ROUTE_REFUSED = "MN0304"
    BACKEND_UNRESOLVED = "MN0305"
    ROUTE_WITHOUT_WAYPOINT = "MN0306"

    POLICY_TARGET_MISSING = "MN0401"
    POLICY_CONFLICT = "MN0402"
    POLICY_WITHOUT_WAYPOINT = "MN0403"

    WAYPOINT_MISSING = "MN0501"
    WAYPOINT_NOT_READY = "MN0502"
    WAYPOINT_UNFIT = "MN0503"
    """It does not take this kind of traffic."""
