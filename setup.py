"""Only what pyproject.toml cannot say: the compiled HTTP/2 engine."""

from setuptools import setup

setup(cffi_modules=["mesh/http2/build_nghttp2.py:ffibuilder"])
