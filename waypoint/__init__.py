"""The L7 proxy that a service or namespace opts into.

tunnel -> socket -> sniff -> HTTP codec -> exchange -> route -> endpoint -> codec -> tunnel
"""
