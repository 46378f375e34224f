"""Plain HTTP/1.1 requests whose decision is known, moved by C without the interpreter.

`lane.h` says what is plain. Everything else is served by the Python codecs, which also take over
what turns out not to be plain; without the compiled part they serve all of it.
"""
