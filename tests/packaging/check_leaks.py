#!/usr/bin/env python3
"""check_leaks.py COMPILER INCLUDE_DIR: what does #include <weft/weft.h> bring into a user's file?

Allowed are macros named WEFT_*, declarations inside namespace weft, and the headers of the C++ standard library. The compiler's
preprocessor says which line comes from which file; the rest is counting braces. And it must bring every header that a user may want.
"""
import pathlib
import re
import subprocess
import sys

STANDARD = re.compile(r"/usr/include/(c\+\+|bits|sys|asm|asm-generic|gnu|linux|[\w.-]+-linux-gnu/(c\+\+|bits|sys|asm|gnu))/|/lib/gcc/|/lib/llvm|/usr/include/[\w-]+\.h$")
LITERALS = re.compile(r'R"([^(]*)\(.*?\)\1"|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])\'', re.S)

# What ops, mechanisms and kernels are written with; users of the library include these by name if they write such themselves.
FOR_AUTHORS = {"core/kernels.h", "core/functors.h", "core/math.h", "autograd/check.h", "attention/kernels.h", "autograd/node.h"}


def preprocess(compiler, include_dir, *flags):
    command = [compiler, "-std=c++20", "-fopenmp", "-I", include_dir, "-x", "c++", "-E", *flags, "-"]
    return subprocess.run(command, input="#include <weft/weft.h>\n", capture_output=True, text=True, check=True).stdout


def by_file(text):
    """Yields (file, line) for every line of preprocessed text."""
    file = ""
    for line in text.splitlines():
        marker = re.match(r'# \d+ "([^"]*)"', line)
        if marker:
            file = marker.group(1)
        else:
            yield file, line


def main():
    compiler, include_dir = sys.argv[1:]
    ours = include_dir.rstrip("/") + "/weft/"
    problems = []
    macros, code, files = {}, [], set()
    for file, line in by_file(preprocess(compiler, include_dir, "-dD")):
        files.add(file)
        directive = re.match(r"#(define|undef) (\w+)", line)
        if not file.startswith(ours):
            continue
        if directive is None:
            code.append(line)
        elif directive.group(1) == "define":
            macros[directive.group(2)] = file
        else:
            macros.pop(directive.group(2), None)

    if not any(file.startswith(ours) for file in files):
        problems.append(f"no header below {ours} was read")
    for header in sorted(pathlib.Path(ours).glob("*/**/*.h")):
        name = header.relative_to(ours).as_posix()
        if str(header) not in files and name not in FOR_AUTHORS and not {"cpu", "cuda"} & set(header.parts) and "-inl" not in name:
            problems.append(f"weft.h does not bring {name}")
    for file in sorted(files):
        if file.startswith("/") and not file.startswith(ours) and not STANDARD.search(file):
            problems.append(f"a header of another library is included: {file}")
    for name, file in macros.items():
        if not name.startswith("WEFT_"):
            problems.append(f"macro {name} defined in {file}")

    depth, outside = 0, ""
    for piece in re.split(r"([{}])", LITERALS.sub("0", "\n".join(code))):
        if piece == "{":
            depth += 1
        elif piece == "}":
            depth -= 1
        elif depth == 0:
            outside += piece + "\n"
    for statement in re.split(r"[;\n]", re.sub(r"#.*", "", outside)):
        if statement.strip() and not re.fullmatch(r"\s*(inline )?namespace weft(::\w+)*\s*", statement):
            problems.append(f"outside namespace weft: {statement.strip()}")

    for problem in problems:
        print(problem)
    print(f"{len(macros)} macros, {len(files)} headers, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
