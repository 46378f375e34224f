"""What people see of connections: metrics under Istio's names and the access log.

Both are fed from `mesh.model.connection.ConnectionRecord` and nothing else.
"""
