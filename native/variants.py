"""Compiles variants of the core, and C programs around it, with the C compiler alone: for tests and benchmarks.

A variant is a private copy of native/, changed by patches and flags: the portable path, sanitizers, seeded bugs. The
result of `build_variant` is given to a process in CAPSHM_CORE.

What was built, each object of it as well, stays under build/variants, in a directory named after everything that went
into it: a second request costs only the hashing, and a patch only what it changes. A directory appears there by one
rename, under a lock for its name: workers that want the same variant at once compile it once, and a death in the middle
leaves a directory whose name starts with a dot and that nobody reads.
"""

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import cffi

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "native"
CACHE = ROOT / "build" / "variants"
BINDING = "_core.c"
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)

# For `cflags`. An extension with one of these needs the sanitizer's runtime in the process before Python starts
# (`environment`); a program does not.
ADDRESS_SANITIZER = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
THREAD_SANITIZER = ("-fsanitize=thread", "-fno-omit-frame-pointer")

Patch = tuple[str, str, str]  # file in native/, old text, new text


class PatchDoesNotFit(Exception):
    """A patch's old text is not in its file exactly once: the source has moved on, and the patch must follow."""


class DoesNotCompile(Exception):
    """The compiler refused a variant; the message holds its command and output."""


def build_variant(
    name: str,
    *,
    defines: Sequence[str] = (),
    cflags: Sequence[str] = (),
    patches: Sequence[Patch] = (),
    compiler: str = "cc",
) -> Path:
    """Return the path of an extension module, for CAPSHM_CORE, built from the core's sources.

    `name` is for people: it begins the name of the directory. `defines` are as after -D, `cflags` come after those of
    native/cflags.txt. PatchDoesNotFit names the patch whose old text is not in its file exactly once. Warnings are no
    errors here: a bug sown on purpose may leave a variable unused.
    """
    sources = _patched_sources(name, patches)
    flags = [*_core_flags(), *(f"-D{define}" for define in defines), *cflags]
    declarations = {path: text for path, text in sources.items() if path.endswith((".cdef", ".py"))}
    headers = {path: "" for path in sources if path.endswith(".h")}  # it only looks whether they are there

    def generate(directory: Path, _final: Path) -> None:
        cdefs = sorted(directory.glob("native/*.cdef"))
        _run(sys.executable, directory / "native" / "cffi_build.py", "capshm._core", directory / BINDING, *cdefs)

    # What is generated depends on cffi; what is compiled of it, on the headers of this Python, too.
    binding = _cached("binding", ("binding", cffi.__version__), declarations | headers, generate) / BINDING
    python = [f"-I{sysconfig.get_path('include')}"]
    files = sources | {BINDING: binding.read_text(encoding="utf-8")}
    objects = _objects(compiler, [*flags, *python], files, ingredients=(sys.version,))
    # The name tells capshm._native which PyInit function to call.
    return _linked(name, "_core.so", compiler, [*flags, "-shared"], objects, sources)


def build_program(
    name: str,
    sources: Sequence[str],
    *,
    defines: Sequence[str] = (),
    cflags: Sequence[str] = (),
    patches: Sequence[Patch] = (),
    compiler: str = "cc",
) -> Path:
    """Return the path of a program made of `sources` (paths from the root of the tree) and all of the core's sources.

    Headers among the sources are put beside them. Everything else as in build_variant; no Python is involved.
    """
    files = _patched_sources(name, patches)
    files |= {source: (ROOT / source).read_text(encoding="utf-8") for source in sources}
    flags = [*_core_flags(), *(f"-D{define}" for define in defines), *cflags]
    return _linked(name, "program", compiler, flags, _objects(compiler, flags, files), files)


def sanitizer_runtime(sanitizer: str = "asan", *, compiler: str = "cc") -> Path | None:
    """Return the shared library to preload for a variant with that sanitizer, or None where the compiler has none."""
    # clang knows gcc's runtime too, but cannot use it: its own first.
    for file in (f"libclang_rt.{sanitizer}-{os.uname().machine}.so", f"lib{sanitizer}.so"):
        found = Path(_run(compiler, f"-print-file-name={file}").strip())
        if found.is_absolute():  # a compiler answers with the bare name when it does not know the file
            return found.resolve()
    return None


def environment(core: Path | None = None, *, preload: Path | None = None) -> dict[str, str]:
    """Return this process's environment for a child that runs `core`, or a program, with that runtime preloaded.

    What the tests themselves run under is taken out: `make asan` preloads a runtime that other sanitizers cannot bear.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in {"CAPSHM_CORE", "LD_PRELOAD"}}
    chosen = {"CAPSHM_CORE": core, "LD_PRELOAD": preload}
    return inherited | {name: str(value) for name, value in chosen.items() if value is not None}


def _core_flags() -> list[str]:
    lines = (NATIVE / "cflags.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("-")]


def _patched_sources(name: str, patches: Iterable[Patch]) -> dict[str, str]:
    """Return the text of every file of the core, by its path from the root, after the patches."""
    texts = {}
    for path in sorted(NATIVE.iterdir()):
        if path.suffix in {".c", ".h", ".cdef"} or path.name == "cffi_build.py":
            texts[f"native/{path.name}"] = path.read_text(encoding="utf-8")
    for number, (file, old, new) in enumerate(patches, start=1):
        key = f"native/{file}"
        if key not in texts:
            raise PatchDoesNotFit(f"variant {name!r}, patch {number}: the core has no file {file!r}")
        count = texts[key].count(old)
        if count != 1:
            raise PatchDoesNotFit(f"variant {name!r}, patch {number}: {count} places in {file} read\n{old}")
        texts[key] = texts[key].replace(old, new)
    return texts


def _objects(
    compiler: str, flags: Sequence[str], files: Mapping[str, str], ingredients: Sequence[str] = ()
) -> list[Path]:
    """Compile every .c file of these; one that was compiled so before, with the same headers, is taken as it is."""
    return [
        _object(compiler, flags, file, _read_for(file, files), ingredients)
        for file in sorted(files)
        if file.endswith(".c")
    ]


def _object(
    compiler: str, flags: Sequence[str], file: str, texts: Mapping[str, str], ingredients: Sequence[str]
) -> Path:
    def build(directory: Path, final: Path) -> None:
        # Debuggers should look for sources where they will be after the rename.
        places = [f"-I{directory / 'native'}", f"-ffile-prefix-map={directory}={final}"]
        _run(compiler, *flags, *places, "-c", directory / file, "-o", directory / "object.o")

    own = ("object", compiler, _compiler_version(compiler), *flags, *ingredients)
    return _cached(Path(file).stem, own, texts, build) / "object.o"


def _read_for(file: str, files: Mapping[str, str]) -> dict[str, str]:
    """Return the texts that the compiler reads for one of these files: its own, and those of headers it leads to."""
    headers = {Path(path).name: path for path in files if path.endswith(".h")}
    found: dict[str, str] = {}
    left = [file]
    while left:
        path = left.pop()
        if path not in found:
            found[path] = files[path]
            left += [headers[name] for name in INCLUDE.findall(files[path]) if name in headers]
    return found


def _linked(
    name: str, result: str, compiler: str, flags: Sequence[str], objects: Sequence[Path], sources: Mapping[str, str]
) -> Path:
    """Return the path of what these objects make. The sources lie beside it, for people."""
    places = [str(path.relative_to(CACHE)) for path in objects]

    def build(directory: Path, _final: Path) -> None:
        _run(compiler, *flags, *objects, "-o", directory / result)

    return _cached(name, ("linked", compiler, _compiler_version(compiler), *flags, *places), sources, build) / result


def _cached(
    name: str, ingredients: Iterable[str], texts: Mapping[str, str], build: Callable[[Path, Path], None]
) -> Path:
    """Return the directory that `build` filled once with the same ingredients and texts."""
    digest = hashlib.sha256()
    for part in (*ingredients, *(part for item in sorted(texts.items()) for part in item)):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)  # so that ("ab", "c") is not ("a", "bc")
    final = CACHE / f"{name}-{digest.hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{final.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given up when the file closes, also by a death
        if final.is_dir():
            return final
        directory = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=CACHE))
        try:
            for file, text in texts.items():
                path = directory / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            build(directory, final)
            directory.chmod(0o755)  # tests also load a variant as another user
            directory.rename(final)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
    return final


@cache
def _compiler_version(compiler: str) -> str:
    return _run(compiler, "--version")


def _run(*command: str | Path) -> str:
    """Run a command and return its output; DoesNotCompile tells what it said when it failed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise DoesNotCompile(f"{shlex.join(words)}\nended with status {done.returncode}:\n{done.stdout}")
    return done.stdout
