#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Find modules of a Rust crate that import one another in a circle, or one of a layer above.

  lab/layers.py [--print | --dot] [PLACE[=MODULE]...]

The places together are one crate: each is a file, or a folder with the files of the crate's
root, or of MODULE where one is named (`rust/kvm=kvm`; `crate` is the root). They are given from
the lowest up, and none imports from a later one. Within each folder the arrows between its files
and its folders must go one way; a folder counts as one thing with all that is in it. A name
counts as an arrow to where it is defined, so a mod.rs that only names or hands on what is
below it draws none. So does what a file gives to a type of another file (`impl Vcpu` without the
`struct`) to where that is called, which takes no import: if the receiver is `self`, or a name for
which the file has a type or a constructor, or if the file names the type and nothing else has a
method of that name. Other calls of such methods are not seen, e.g. of what another call returns if
the name is a common one. Methods of a trait draw none: who calls them knows the trait only. The
status is 1 if something is wrong, which is printed.

Without a place, the project's own crates are looked at. With --print, all arrows are printed;
with --dot the files and folders at the root of the first crate, as a graph for Graphviz without
those arrows that a longer way says, too (`lab/layers.py --dot | dot -Tsvg`).
"""

import collections
import os
import pathlib
import re
import sys
import textwrap

# Comments, strings and characters, in which nothing is code.
NO_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?\'(?:\\.[^\']*|[^\\\'])\'', re.S)
USE = re.compile(r"(\bpub\b(?:\([^)]*\))?\s+)?\buse\s+([^;]+);")
INLINE = re.compile(r"\bmod\s+\w+\s*\{")
MACRO = re.compile(r"#\[macro_export\]\s*macro_rules!\s*(\w+)")
PATH = re.compile(r"(?<![\w:])(?:\w+\s*::\s*)+\w+")
TOKEN = re.compile(r"\w+|::|[{},*]")
TYPE = r"((?:\w+\s*::\s*)*\w+)"
ALIAS = re.compile(rf"\btype\s+(\w+)\s*(?:<[^=]*>)?\s*=\s*{TYPE}")
IMPL = re.compile(r"(?:^|[;}\]])\s*(?:unsafe\s+)?impl\b([^{;]*)\{")
TRAIT = re.compile(r"\btrait\s+\w+[^{;]*\{")
# What has a name in a block of these.
ITEM = re.compile(r"\b(?:fn|const)\s+(\w+)\s*[<(:]")
CALL = re.compile(r"(?:\b(\w+)\s*)?\.\s*(\w+)\s*(?:::\s*<[^(;]*>\s*)?\(")
# A name with its type, or with the type that makes it.
TYPED = re.compile(rf"(?<![\w:.])(\w+)\s*:\s*(?!:)(?:&\s*(?:'\w+\s+)?(?:mut\s+)?)?{TYPE}(?=\s*[<,)=}}{{;])"
                   rf"|\blet\s+(?:mut\s+)?(\w+)\s*=\s*{TYPE}\s*::\s*\w+\s*\(")

Use = collections.namedtuple("Use", "path name at handed_on")
# A block of methods: the path of their type, whether they are a trait's, from where to where, and names.
Impl = collections.namedtuple("Impl", "of is_traits begin end names")

# The module, its lowest layer first, the tests, the models, the command and the example.
OWN = (("rust/kvm=kvm", "src", "rust/exports.rs=exports", "rust/kunit/queries.rs=kunit",
        "rust/kvm_mmio_ext_main.rs=crate"),
       ("selftests/src",), ("selftests/host/models/src",), ("tools/kvm-mmio/src",), ("examples/mmio-vmm/src",))


class Module:
    """A file: what it imports, and the other paths that are in it."""

    def __init__(self, path, layer):
        self.path, self.layer = path, layer
        blank = lambda found: re.sub(r"[^\n]", " ", found[0])
        self.code = NO_CODE.sub(blank, path.read_text())
        self.inline = [(found.start(), self.end(found.end())) for found in INLINE.finditer(self.code)]
        self.uses = [Use(self.outward(path, found.start()), name, found.start(), bool(found[1]))
                     for found in USE.finditer(self.code)
                     for path, name in leaves(TOKEN.findall(found[2]))]
        self.aliases = {name: words(path) for name, path in ALIAS.findall(self.code)}
        self.impls = [impl for found in IMPL.finditer(self.code) for impl in self.impl(found)]
        self.trait_items = {name for found in TRAIT.finditer(self.code) for name in self.items(found.end())}
        self.typed = collections.defaultdict(list)
        for name, path, made, maker in TYPED.findall(self.code):
            self.typed[name or made].append(words(path or maker))
        rest = USE.sub(blank, self.code)
        self.paths = [(self.outward(re.findall(r"\w+", found[0]), found.start()), found.start())
                      for found in PATH.finditer(rest)]

    def end(self, at):
        """Where the block that has begun before `at` is over."""
        depth = 1
        while depth and at < len(self.code):
            depth += {"{": 1, "}": -1}.get(self.code[at], 0)
            at += 1
        return at

    def items(self, begin):
        """The names in a block, which begins before `begin`, but not in the blocks that are in it."""
        body = self.code[begin:self.end(begin)]
        return {found[1] for found in ITEM.finditer(body)
                if body.count("{", 0, found.start()) == body.count("}", 0, found.start())}

    def impl(self, found):
        before, _, after = without_generics(found[1]).partition(" for ")
        path = re.match(rf"\s*{TYPE}", after or before)
        if path:
            yield Impl(words(path[1]), bool(after), found.end(), self.end(found.end()), self.items(found.end()))

    def outward(self, path, at):
        """The path as it is outside of the modules that are inside of the file."""
        path = list(path)
        for _ in (span for span in self.inline if span[0] < at < span[1]):
            if path[0] == "super":
                path = path[1:] if path[1:2] == ["super"] else ["self", *path[1:]]
        return path

    def line(self, at):
        return self.code.count("\n", 0, at) + 1


def words(path):
    return re.findall(r"\w+", path)


def without_generics(text):
    """The text without what is between angle brackets."""
    text = text.replace("->", "  ")
    while text != (less := re.sub(r"<[^<>]*>", "", text)):
        text = less
    return text


def leaves(tokens):
    """The paths of `a::{b, c::d as e}`, and the names that they get."""
    path, stack, renamed = [], [], None
    for token in [*tokens, ","]:
        if token == "{":
            stack.append(list(path))
        elif token in ",}":
            if path and (not stack or path != stack[-1]):
                whole = path[:-1] if path[-1] == "self" else path
                yield whole, renamed if renamed not in (None, "as") else whole[-1]
            renamed = None
            if token == "}":
                stack.pop()
            path = list(stack[-1]) if stack else []
        elif token == "as":
            renamed = token
        elif renamed == "as":
            renamed = token
        elif token != "::":
            path.append(token)


def read(places):
    """The modules of a crate by their paths, from {file or folder: the module that is there}."""
    modules = {}
    for layer, (place, mount) in enumerate(places.items()):
        if place.is_file():
            modules[mount] = Module(place, layer)
        for path in sorted(place.rglob("*.rs")):
            name = path.relative_to(place).with_suffix("").parts
            # Programs are crates of their own.
            if name[0] == "bin":
                continue
            if name[-1] in ("mod", "lib", "main"):
                name = name[:-1]
            modules[(*mount, *name)] = Module(path, layer)
    return modules


class Crate:
    def __init__(self, places):
        self.modules = read(places)
        self.macros = {name: module for module, file in self.modules.items() for name in MACRO.findall(file.code)}
        self.bound = {module: {use.name: use.path for use in file.uses} for module, file in self.modules.items()}
        # By name, what has methods of that name, and where they are: (type or None of a trait's, module).
        self.methods = collections.defaultdict(set)
        for module, file in self.modules.items():
            for impl in file.impls:
                of = None if impl.is_traits else self.type(module, impl.of)
                for name in impl.names:
                    self.methods[name].add((of, module))
            for name in file.trait_items:
                self.methods[name].add((None, module))

    def exists(self, name):
        """Whether it is a module, or a folder of them without a file."""
        return any(module[:len(name)] == name for module in self.modules)

    def resolve(self, module, path, seen=()):
        """The module that a path leads to from `module`, and the names that are left of the path;
        None if it leads out of the crate."""
        at, rest = module, list(path)
        if rest[0] == "crate":
            at, rest = (), rest[1:]
        elif rest[0] in ("super", "self"):
            while rest and rest[0] in ("super", "self"):
                at, rest = at[:len(at) - (rest[0] == "super")], rest[1:]
        elif not self.exists((*at, rest[0])) and rest[0] not in self.bound.get(at, {}):
            return None
        while rest:
            name, key = rest[0], (at, rest[0])
            if self.exists((*at, name)):
                at, rest = (*at, name), rest[1:]
            elif name in self.bound.get(at, {}) and key not in seen:
                return self.resolve(at, [*self.bound[at][name], *rest[1:]], (*seen, key))
            elif at == () and name in self.macros:
                return self.macros[name], rest
            else:
                break
        return at, rest

    def type(self, module, path):
        """Where a type is defined, and its name; None if it is not of the crate."""
        for _ in self.modules:
            found = self.resolve(module, path) or (module, path)
            if len(found[1]) != 1 or found[0] not in self.modules:
                return None
            alias = self.modules[found[0]].aliases.get(found[1][0])
            if not alias:
                return found[0], found[1][0]
            module, path = found[0], alias
        return None

    def given(self, types, name):
        """Where methods of the name are defined that such a type has from other files than its own."""
        return [module for of, module in self.methods.get(name, ()) if of and of in types and of[0] != module]

    def calls(self, module, file):
        """Where methods are defined that a file calls and that are not with their types, and the places."""
        named = {self.type(module, path) for path in [*(use.path for use in file.uses), *file.aliases.values()]}
        for found in CALL.finditer(file.code):
            paths = [impl.of for impl in file.impls if impl.begin < found.start() < impl.end] \
                if found[1] == "self" else file.typed.get(found[1], ())
            alone = self.methods.get(found[2], ())
            yield from ((to, found.start()) for to in
                        self.given({self.type(module, path) for path in paths}, found[2])
                        or (self.given(named, found[2]) if len(alone) == 1 else ()))
        for path, at in file.paths:
            yield from ((to, at) for to in self.given({self.type(module, path[:-1])}, path[-1]))

    def arrows(self):
        """{(module, another one that it needs): the line that says so}."""
        arrows = {}
        for module, file in self.modules.items():
            named = [(use.path, use.at, use.handed_on) for use in file.uses]
            named += [(path, at, False) for path, at in file.paths]
            for path, at, handed_on in named:
                found = self.resolve(module, path)
                if not found or found[0] == module or found[0] not in self.modules:
                    continue
                is_below = found[0][:len(module)] == module
                if not (handed_on and is_below):
                    arrows.setdefault((module, found[0]), file.line(at))
            for target, at in self.calls(module, file):
                if target != module:
                    arrows.setdefault((module, target), file.line(at))
        return arrows

    def upwards(self):
        """The arrows to a layer above."""
        layer = lambda module: self.modules[module].layer
        return {ends: line for ends, line in self.arrows().items() if layer(ends[1]) > layer(ends[0])}

    def describe(self, origin, target, line):
        return f"{self.modules[origin].path}:{line} needs {self.modules[target].path}"

    def circles(self):
        """Of each folder those of its parts that are in a circle, each as the arrows of one."""
        arrows = self.arrows()
        folders = {module[:n] for module in self.modules for n in range(len(module))}
        for folder in sorted(folders):
            graph = collections.defaultdict(dict)
            for (origin, target), line in arrows.items():
                if origin[:len(folder)] == target[:len(folder)] == folder:
                    ends = origin[:len(folder) + 1], target[:len(folder) + 1]
                    if ends[0] != ends[1]:
                        graph[ends[0]].setdefault(ends[1], (origin, target, line))
            for group in groups(graph):
                yield group, circle(graph, group)


def reachable(graph, start):
    seen, todo = set(), [start]
    while todo:
        new = [node for node in graph.get(todo.pop(), {}) if node not in seen]
        seen.update(new)
        todo += new
    return seen


def groups(graph):
    """The sets of nodes each of which can reach all the others."""
    reach = {node: reachable(graph, node) for node in list(graph)}
    seen = set()
    for node in sorted(graph):
        if node in reach[node] and node not in seen:
            group = {other for other in reach[node] if node in reach.get(other, ())}
            seen |= group
            yield sorted(group)


def circle(graph, group):
    """The arrows of a shortest circle through the first of a group."""
    first = group[0]
    ways, seen = [[arrow] for arrow in graph[first].items()], set()
    for way in ways:
        node = way[-1][0]
        if node == first:
            return [arrow for _, arrow in way]
        if node not in seen:
            seen.add(node)
            ways += ([*way, arrow] for arrow in graph.get(node, {}).items())
    raise ValueError(f"{first} is in no circle")


def dot(crate):
    """The parts of the root in Graphviz' language, each with the files that are in it."""
    parts, graph = collections.defaultdict(list), collections.defaultdict(set)
    for module in sorted(crate.modules):
        parts[module[:1]].append("::".join(module[1:]) or crate.modules[module].path.name)
    for origin, target in crate.arrows():
        if origin[:1] != target[:1] and origin and target:
            graph[origin[:1]].add(target[:1])
    yield "digraph layers {"
    yield '\tnode [shape=box, fontname="sans-serif", fontsize=11, style=filled, fillcolor="#f4f4f4"];'
    for (name,), files in ((part, files) for part, files in parts.items() if part):
        inside = textwrap.wrap(", ".join(file for file in files if not file.endswith(".rs")), 40)
        folder = "/" if inside else ""
        yield f'\t{name} [label="{name}{folder}{"".join(f"{chr(92)}n{line}" for line in inside)}"];'
    for origin in sorted(graph):
        for target in sorted(graph[origin]):
            if not any(target in reachable(graph, other) for other in graph[origin] - {target}):
                yield f"\t{origin[0]} -> {target[0]};"
    yield "}"


def parse(arguments):
    places = {}
    for argument in arguments:
        place, _, mount = argument.partition("=")
        if not pathlib.Path(place).exists():
            sys.exit(f"{place} is not there")
        places[pathlib.Path(place)] = tuple(mount.split("::")) if mount not in ("", "crate") else ()
    return places


def check(crate):
    """Prints what is wrong; returns how much."""
    upwards, circles = crate.upwards(), list(crate.circles())
    for (origin, target), line in upwards.items():
        print(f"{crate.describe(origin, target, line)}, which is above it")
    for group, arrows in circles:
        print(f"a circle of {', '.join('::'.join(part) or 'the root' for part in group)}:")
        for arrow in arrows:
            print(f"  {crate.describe(*arrow)}")
    return len(upwards) + len(circles)


def main(argv):
    places = [argument for argument in argv if argument not in ("--print", "--dot")]
    if any(argument.startswith("-") for argument in places):
        sys.exit(__doc__)
    if not places:
        os.chdir(pathlib.Path(__file__).resolve().parent.parent)
    wrong = 0
    for crate in map(Crate, map(parse, [places] if places else OWN)):
        if "--dot" in argv:
            print(*dot(crate), sep="\n")
            return 0
        if "--print" in argv:
            for (origin, target), line in crate.arrows().items():
                print(crate.describe(origin, target, line))
        wrong += check(crate)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
