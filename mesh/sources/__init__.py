"""Where objects come from: a directory of YAML, or Kubernetes.

`objects` and `security` are the schemas, `decode` turns one raw object into a typed one,
`documents` gives YAML its line numbers, `file` watches a directory.
"""
