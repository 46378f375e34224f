"""Names of the Gateway API's conformance tests, and why some say nothing about a mesh."""

from __future__ import annotations

from collections.abc import Mapping

VERSION = "v1.6 development line, August 2026"

_LISTENERS = "listeners belong to a gateway at the edge; a mesh route attaches to a Service"
_HOSTNAMES = "a mesh ignores `hostnames`: the dialled Service decides (see MeshFrontendHostname)"
_CONSUMER = "in a mesh a route of another namespace is a consumer route (see MeshConsumerRoute)"
_TERMINATE = "TLS is passed through, never ended: the mesh encrypts by itself"
_UDP = "only TCP is captured"
_BACKEND_TLS = "the way to a backend is secured by the mesh's own mutual TLS"
_GATEWAY = "about Gateways at the edge: addresses, listeners, certificates"

_GROUPS: Mapping[str, tuple[str, ...]] = {
    _HOSTNAMES: (
        "HTTPRouteHostnameIntersection",
        "HTTPRouteListenerHostnameMatching",
        "GRPCRouteListenerHostnameMatching",
    ),
    _LISTENERS: (
        "HTTPRouteDisallowedKind",
        "HTTPRouteHTTPSListener",
        "HTTPRouteHTTPSListenerDetectMisdirectedRequests",
        "TCPRouteInvalidNonTCPListener",
        "TLSRouteInvalidNoMatchingListenerHostname",
        "TLSRouteListenerPassthroughSupportedKinds",
        *(
            f"ListenerSet{name}"
            for name in (
                "AllowedNamespaceNone",
                "AllowedNamespaceSame",
                "AllowedNamespaceSelector",
                "AllowedRoutesNamespaces",
                "AllowedRoutesSupportedKinds",
                "DefaultNotAllowed",
                "DualParentRefIndependence",
                "GatewayParentSectionNameNotFound",
                "HTTPRouting",
                "HostnameConflict",
                "ProtocolConflict",
                "ReferenceGrant",
                "RouteStatusScopedToParentRef",
            )
        ),
    ),
    _CONSUMER: ("HTTPRouteInvalidCrossNamespaceParentRef",),
    _TERMINATE: (
        "TLSRouteListenerMixedTerminationNotSupported",
        "TLSRouteListenerTerminateNotSupported",
        "TLSRouteListenerTerminateSupportedKinds",
        "TLSRouteMixedTerminationSameNamespace",
        "TLSRouteTerminateSimpleSameNamespace",
    ),
    _UDP: (
        "UDPRoute",
        *(
            f"UDPRoute{name}"
            for name in (
                "InvalidBackendRefNonexistent",
                "InvalidCrossNamespaceBackendRef",
                "MultipleRoutesAttachment",
                "NotAllowedByListeners",
                "ParentRefAttachAllListeners",
                "ParentRefPortAndSectionName",
                "ReferenceGrant",
                "WeightedRouting",
            )
        ),
    ),
    _BACKEND_TLS: (
        "BackendTLSPolicy",
        *(
            f"BackendTLSPolicy{name}"
            for name in (
                "ConflictResolution",
                "GRPCRoute",
                "InvalidCACertificateRef",
                "InvalidKind",
                "ObservedGenerationBump",
                "SANValidation",
                "TLSRouteTerminate",
            )
        ),
    ),
    _GATEWAY: (
        "GatewayClassObservedGenerationBump",
        *(
            f"Gateway{name}"
            for name in (
                "FrontendClientCertificateValidation",
                "FrontendClientCertificateValidationInsecureFallback",
                "FrontendInvalidDefaultClientCertificateValidation",
                "HTTPListenerIsolation",
                "Infrastructure",
                "InvalidFrontendClientCertificateValidation",
                "InvalidParametersRef",
                "InvalidRouteKind",
                "InvalidTLSBackendConfiguration",
                "InvalidTLSConfiguration",
                "ListenerUnsupportedProtocol",
                "ModifyListeners",
                "NameMaximumLength",
                "ObservedGenerationBump",
                "OptionalAddressValue",
                "SecretInvalidReferenceGrant",
                "SecretMissingReferenceGrant",
                "SecretReferenceGrantAllInNamespace",
                "SecretReferenceGrantSpecific",
                "StaticAddresses",
                "TLSBackendClientCertificate",
                "WithAttachedRoutes",
                "WithAttachedRoutesWithPort8080",
            )
        ),
    ),
}

NOT_APPLICABLE: Mapping[str, str] = {
    name: reason for reason, names in _GROUPS.items() for name in names
}
