"""Only what pyproject.toml cannot say: the compiled HTTP/2 and tunnel engines, and the lane."""

from setuptools import setup

setup(
    cffi_modules=[
        "mesh/http2/build_nghttp2.py:ffibuilder",
        "mesh/tunnel/native/build.py:ffibuilder",
        "waypoint/lane/build.py:ffibuilder",
    ]
)
