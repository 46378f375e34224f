"""Only what pyproject.toml cannot say: the compiled HTTP/2 and tunnel engines, the lane,
and the numbers that a waypoint's workers share."""

from setuptools import setup

setup(
    cffi_modules=[
        "mesh/http2/build_nghttp2.py:ffibuilder",
        "mesh/tunnel/native/build.py:ffibuilder",
        "waypoint/lane/build.py:ffibuilder",
        "waypoint/shared/build.py:ffibuilder",
    ]
)
