# SPDX-License-Identifier: GPL-2.0
"""Check the documents: that they render, that what they name is there, and that none is too long.

Prints a line for each thing that is wrong; the status is 1 if there is any. Needs docutils.
"""

import pathlib
import re
import subprocess
import sys

from docutils import core, nodes, utils

ROOT = pathlib.Path(__file__).resolve().parent.parent
TREE = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                      stdout=subprocess.PIPE, text=True, check=True).stdout.split("\0")[:-1]
DOCUMENTS = [name for name in TREE if name.endswith(".rst") and (ROOT / name).exists()]
INDEX = "Documentation/index.rst"
TOP = {name.partition("/")[0] for name in TREE}
# Folders of the kernel with the names of ours.
KERNELS = re.compile(r"Documentation/(admin-guide|arch|process|rust|virt)/|rust/kernel/|tools/testing/")
# Files that are known by their names alone.
RUST = re.compile(r"\w+\.rs")
NAMES = {name.rpartition("/")[2] for name in TREE}
# Nobody reads more in one sitting.
LINES = 400
# What a path looks like, with shell patterns in it.
PATH = re.compile(r"[\w.*{},/+-]+")
# A document that is named in a sentence.
NAMED = re.compile(r"(?<![\w/.-])[\w./-]*\w\.rst\b")
TARGET = re.compile(r"^[ $]*make (?:-s )?([a-z][a-z_-]*)(?=\s|$)", re.M)
TARGETS = set(re.findall(r"^([a-z_-]+):", (ROOT / "Makefile").read_text(), re.M))


def alternatives(path):
    """The paths that braces stand for, as in fixes/{a,b}.rs."""
    brace = re.search(r"\{([^{}]*)\}", path)
    if not brace:
        return [path]
    return [found for choice in brace[1].split(",")
            for found in alternatives(path[:brace.start()] + choice + path[brace.end():])]


def exists(path, near=ROOT):
    """Whether there is what a path, perhaps with patterns, stands for."""
    return all(any(near.glob(name.rstrip("/"))) for name in alternatives(path))


def is_ours(text):
    """Whether a word in a literal is meant to be a path of this tree."""
    return bool(PATH.fullmatch(text)) and not KERNELS.match(text) and (
        text in TOP and "." in text or "/" in text and text.partition("/")[0] in TOP)


def is_file(uri):
    return not re.match(r"[a-z]+:", uri) and not uri.startswith("#")


def lacking(name, document):
    """What a parsed document names that is not there."""
    folder = (ROOT / name).parent
    for literal in document.findall(nodes.literal):
        for word in literal.astext().split():
            if is_ours(word) and not exists(word) or RUST.fullmatch(word) and word not in NAMES:
                yield f"there is no {word}"
    for literal in (*document.findall(nodes.literal), *document.findall(nodes.literal_block)):
        for target in set(TARGET.findall(literal.astext())) - TARGETS:
            yield f"make has no target {target}"
    for text in document.findall(nodes.Text):
        for word in NAMED.findall(text):
            if not any(exists(word, near) for near in (folder, ROOT)) and not KERNELS.match(word):
                yield f"there is no document {word}"
    uris = [node["refuri"] for node in document.findall(nodes.reference) if "refuri" in node]
    uris += [node["uri"] for node in document.findall(nodes.image)]
    for uri in filter(is_file, uris):
        if not (folder / uri).exists():
            yield f"there is nothing at {uri}"


def links(name, document):
    """The documents that a document links to, from the top of the tree."""
    uris = [node.get("refuri", "") for node in document.findall(nodes.reference)]
    return {str((ROOT / name).parent.joinpath(uri).resolve().relative_to(ROOT))
            for uri in uris if uri and is_file(uri)}


class Complaints:
    """Where docutils writes what it does not like."""

    def __init__(self):
        self.lines = []

    def write(self, text):
        self.lines += text.strip().splitlines()[:1]


def main():
    wrong = []
    indexed = set()
    for name in DOCUMENTS:
        complaints = Complaints()
        document = core.publish_doctree((ROOT / name).read_text(), source_path=name, settings_overrides={
            "report_level": utils.Reporter.WARNING_LEVEL, "halt_level": 5, "warning_stream": complaints,
            "file_insertion_enabled": False})
        wrong += complaints.lines
        wrong += [f"{name}: {problem}" for problem in dict.fromkeys(lacking(name, document))]
        if name == INDEX:
            indexed = links(name, document)
    wrong += [f"{name}: {lines} lines, at most {LINES}: split it" for name in DOCUMENTS
              if name.startswith("Documentation/") and (lines := len((ROOT / name).read_text().splitlines())) > LINES]
    wrong += [f"{INDEX}: {name} is missing" for name in DOCUMENTS
              if name.startswith("Documentation/") and name != INDEX and name not in indexed]
    print("\n".join(wrong), end="\n" if wrong else "")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
