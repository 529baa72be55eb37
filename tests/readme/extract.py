#!/usr/bin/env python3
"""extract.py FOLDER MARKDOWN...: writes every ```cpp block of the given files to FOLDER as a program and prints the programs' paths.

A block that has a main is written as it is; any other is the body of a main after #include <weft/weft.h> and `using namespace weft`.
A program of unchanged text is left alone, so that it is not compiled again.
"""
import pathlib
import re
import sys


def program(block):
    if "int main(" in block:
        return block
    return "#include <weft/weft.h>\n\n#include <iostream>\n\nusing namespace weft;\n\nint main() {\n" + block + "}\n"


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for markdown in map(pathlib.Path, sys.argv[2:]):
        for i, block in enumerate(re.findall(r"^```cpp\n(.*?)^```$", markdown.read_text(), re.M | re.S), 1):
            path = folder / f"{markdown.stem.lower()}_{i}.cpp"
            if not path.exists() or path.read_text() != program(block):
                path.write_text(program(block))
            print(path)


if __name__ == "__main__":
    main()
