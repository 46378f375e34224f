"""What the status of Gateways, routes and policies should say. Pure; writing is elsewhere."""
