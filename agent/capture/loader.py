"""Compile, load and pin the kernel programs of a node, then exit: `python -m agent.capture.loader`.

A process of its own, because one that has compiled with bcc keeps over 100 MB and bcc changes the
working directory. The programs are pinned, not attached (`agent.capture.links` attaches). With
unchanged sources and everything in place there is nothing to compile. Killed half-way it leaves no
mark of completeness, and the next run does the work again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import bpf
from agent.capture import pins, syscalls
from agent.capture.features import compile_features, ensure_bpffs
from agent.capture.headers import HeaderTree, find_headers
from agent.capture.program_cache import Compiled, ProgramCache
from agent.paths import SCHEMA_VERSION, NodePaths
from bpf.layout import MAPS, PROGRAMS, ProgSpec
from mesh.errors import KernelError, MeshnodeError

SOURCES = Path(bpf.__file__).parent
UNIT = "meshnode.c"
# bcc's own helper declarations are not const-correct.
WARNINGS = (
    "-Wall",
    "-Werror",
    "-Wno-unused-function",
    "-Wno-incompatible-pointer-types-discards-qualifiers",
)
DISTRIBUTION_PACKAGES = "/usr/lib/python3/dist-packages"
_LD_IMM64 = 0x18
_PSEUDO_MAP_FD = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What a run did. `compiled` is False for a warm start: all was pinned already."""

    source_hash: str
    compiled: bool
    verified_insns: Mapping[str, int]


def source_hash(features: Mapping[str, int]) -> bytes:
    """Over all sources, the features compiled in and the schema."""
    digest = hashlib.sha256(f"{SCHEMA_VERSION} {sorted(features.items())}".encode())
    for path in sorted([*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.digest()


def load(node: str) -> LoadResult:
    """Pin the node's maps and programs; raise `KernelError` with what to do about it."""
    paths = NodePaths(node)
    ensure_bpffs()
    pins.refuse_other_schemas(paths)
    pins.make_directories(paths)
    with pins.locked(paths.pin_dir), pins.open_maps(paths, create=True) as maps:
        features = compile_features()
        digest = source_hash(features)
        compiled = pins.read_hash(maps) != digest or not _all_pinned(paths)
        if compiled:
            pins.write_hash(maps, bytes(len(digest)))
            descriptors = {spec.index: maps[spec.name].fd for spec in MAPS}
            _pin_programs(paths, _programs(features, digest), descriptors)
            pins.write_hash(maps, digest)
    return LoadResult(
        source_hash=digest.hex(), compiled=compiled, verified_insns=_verified_insns(paths)
    )


def _programs(features: Mapping[str, int], source: bytes) -> Compiled:
    """Compiled now, or earlier if there is a cache."""
    tree = find_headers(os.uname().release, os.environ)
    cache = ProgramCache.named(os.environ)
    if cache is None:
        return compile_sources(features, tree)
    headers = f"{tree.source} {tree.generated} {tree.version_code}"
    found = cache.find(source, headers)
    if found is None:
        found = compile_sources(features, tree)
        cache.keep(source, headers, found)
    return found


def compile_sources(features: Mapping[str, int], tree: HeaderTree) -> Compiled:
    """Compile all hooks with bcc. Changes this process's environment and working directory."""
    os.environ.update(tree.environment)
    flags = [f"-I{SOURCES}", *WARNINGS, *tree.cflags]
    flags += [f"-D{name}={value}" for name, value in sorted(features.items())]
    with _captured_stderr() as said:
        try:
            return _compile(flags)
        except Exception as error:  # bcc raises bare Exception
            raise KernelError(
                "compiling the kernel programs", hint=_compile_hint(tree, f"{said()}{error}")
            ) from error


def _compile(flags: list[str]) -> Compiled:
    bcc = _import_bcc()
    module = bcc.BPF(src_file=str(SOURCES / UNIT), cflags=flags)
    library = bcc.lib
    code = {spec.name: bytes(module.dump_func(spec.name.encode())) for spec in PROGRAMS}
    return Compiled(code=code, license=library.bpf_module_license(module.module).decode())


def _import_bcc() -> ModuleType:
    try:
        import bcc
    except ImportError:
        # Set-up links the distribution's package into the environment; without set-up it is here.
        sys.path.append(DISTRIBUTION_PACKAGES)
        try:
            import bcc
        except ImportError as error:
            raise KernelError(
                "bcc is not installed", hint="Install it: apt install python3-bpfcc"
            ) from error
    module: ModuleType = bcc
    return module


def _compile_hint(tree: HeaderTree, said: str) -> str:
    tail = "\n".join(said.splitlines()[-30:])
    return f"Headers used: {tree.source} and {tree.generated}. The compiler said:\n{tail}"


def relocate(code: bytes, descriptors: Mapping[int, int]) -> bytes:
    """Put map descriptors in place of map numbers (see MAP() in maps.h)."""
    out = bytearray(code)
    for at in range(0, len(code), 8):
        opcode, registers, _, imm = struct.unpack_from("=BBhi", code, at)
        if opcode == _LD_IMM64 and registers >> 4 == _PSEUDO_MAP_FD:
            struct.pack_into("=i", out, at + 4, descriptors[imm])
    return bytes(out)


def _pin_programs(paths: NodePaths, compiled: Compiled, descriptors: Mapping[int, int]) -> None:
    for spec in PROGRAMS:
        fd = syscalls.prog_load(
            syscalls.Program(
                name=spec.name,
                type=spec.type,
                attach=spec.attach,
                code=relocate(compiled.code[spec.name], descriptors),
                license=compiled.license,
            )
        )
        try:
            _replace_pin(fd, pins.progs_dir(paths), spec)
        finally:
            os.close(fd)


def _replace_pin(fd: int, directory: Path, spec: ProgSpec) -> None:
    """Pin beside and rename, so that the name always leads to a whole program."""
    fresh = directory / f"{spec.name}_new"
    fresh.unlink(missing_ok=True)
    syscalls.obj_pin(fd, str(fresh))
    fresh.rename(directory / spec.name)


def _all_pinned(paths: NodePaths) -> bool:
    return all((pins.progs_dir(paths) / spec.name).exists() for spec in PROGRAMS)


def _verified_insns(paths: NodePaths) -> dict[str, int]:
    counts: dict[str, int] = {}
    for spec in PROGRAMS:
        fd = syscalls.obj_get(str(pins.progs_dir(paths) / spec.name))
        try:
            counts[spec.name] = int(syscalls.prog_info(fd).verified_insns)
        finally:
            os.close(fd)
    return counts


@contextlib.contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Catch what the compiler prints to descriptor 2; yields a function that returns it."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)

        def said() -> str:
            return os.pread(file.fileno(), 1 << 20, 0).decode(errors="replace")

        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def main() -> int:
    """Print the result as JSON; exit code 1 and one clear message on failure."""
    parser = argparse.ArgumentParser(prog="agent.capture.loader", description=__doc__)
    parser.add_argument("--node", required=True, help="name of the node")
    arguments = parser.parse_args()
    try:
        result = load(arguments.node)
    except MeshnodeError as error:
        print(f"meshnode loader: {error}", file=sys.stderr)
        return 1
    print(
        json.dumps(
            {
                "source_hash": result.source_hash,
                "compiled": result.compiled,
                "verified_insns": dict(result.verified_insns),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
