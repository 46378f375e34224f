"""meshnode against a real kube-apiserver with RBAC; KUBEBUILDER_ASSETS says where it is."""
