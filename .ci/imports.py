#!/usr/bin/env python3
"""Checks that imports point one way. Run it in the crate's folder.

    .ci/imports.py              check the crate; exit 1 on a violation
    .ci/imports.py --self-test  check this script on crates made for it

Four rules hold, and each violation names the import: file, line, names.

1. No file imports a file that imports it, directly or through others.
2. A floor imports its own files and the floors below it (`FLOORS`).
3. No floor imports the modules that stand beside the house (`BESIDE`), and those
   import the vocabulary and public items only.
4. `session::rules` imports `std` and the names in `RULES_MAY_IMPORT`, no other
   crate, and nothing of `std` that reads a clock or does I/O.

A name counts for the file that defines it, not for the files that re-export it:
a file `a/mod.rs` that only re-exports `a::b::Name` does not import `a/b.rs`.
The crate root re-exports everything and is left out. So is the code that only
tests compile: modules, items and statements under `#[cfg(test)]` or
`#[cfg(all(test, ..))]`.

The script reads source text and no types. It sees `use` declarations, paths
(`crate::error::Error`), and macros of a parent module. It does not see method
calls: a file that writes `impl Name { .. }` imports `Name`, and a file that
calls the method imports nothing.
"""

import collections
import os
import re
import sys
import tempfile

# The floors from the top, each with the modules on it. A module belongs to the
# floor with its longest prefix, so `session::rules::time` is in the rules.
FLOORS = [
    ("middleware", ["middleware"]),
    ("session", ["session"]),
    ("session::driver", ["session::driver"]),
    ("session::rules", ["session::rules"]),
    (
        "vocabulary",
        [
            "clock",
            "cookie",
            "credentials",
            "date",
            "error",
            "header",
            "loom",
            "origin",
            "provider",
            "reauth",
            "rejection",
            "rolling",
            "secret",
            "text",
            "token",
        ],
    ),
]

# Modules that use the house as users of the crate do, and that no floor may use.
BESIDE = ["client", "controlm", "gate", "testing"]

# The floor that is kept pure, and the vocabulary it may import.
RULES = "session::rules"
RULES_MAY_IMPORT = {"Error", "ErrorKind", "LogoutEnds", "Reason", "ReauthFailure", "Target"}
# The parts of `std` that read a clock, do I/O, or start a thread.
RULES_MAY_NOT_IMPORT = {
    "env", "fs", "io", "net", "os", "process", "thread", "Instant", "SystemTime",
}

# Reading Rust: tokens, without comments, with the line of each.

TOKEN = re.compile(
    r"""
      (?P<space>\s+|//[^\n]*)
    | (?P<comment>/\*)
    | (?P<raw>(?:b|c)?r(?P<hashes>\#*)")
    | (?P<string>(?:b|c)?"(?:\\.|[^"\\])*")
    | (?P<char>b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\])')
    | (?P<lifetime>'\w+)
    | (?P<name>(?:r\#)?[A-Za-z_]\w*)
    | (?P<number>\d[\w]*)
    | (?P<mark>::|.)
    """,
    re.VERBOSE | re.DOTALL,
)
OPEN = {"(": ")", "[": "]", "{": "}"}
CLOSE = set(OPEN.values())

Token = collections.namedtuple("Token", "kind text line")


def tokens_of(source):
    """Splits source text into names, marks and string literals."""
    tokens, at, line = [], 0, 1
    while at < len(source):
        match = TOKEN.match(source, at)
        kind, end = match.lastgroup, match.end()
        if match["comment"]:
            kind, depth = "comment", 1
            while depth and end < len(source):
                two = source[end : end + 2]
                depth += {"/*": 1, "*/": -1}.get(two, 0)
                end += 2 if two in ("/*", "*/") else 1
        elif match["raw"]:
            kind, close = "string", '"' + match["hashes"]
            end = source.index(close, end) + len(close)
        if kind == "name":
            tokens.append(Token(kind, match["name"].removeprefix("r#"), line))
        elif kind in ("mark", "string", "number", "char"):
            tokens.append(Token(kind, source[at:end], line))
        line += source.count("\n", at, end)
        at = end
    return tokens


def group_end(tokens, at):
    """Returns the index behind the bracket that closes the one at `at`."""
    depth = 0
    while at < len(tokens):
        depth += (tokens[at].text in OPEN) - (tokens[at].text in CLOSE)
        at += 1
        if depth == 0:
            break
    return at


def without_tests(tokens):
    """Leaves out what only tests compile. `None` if that is the whole file."""
    kept, at = [], 0
    while at < len(tokens):
        inner = [token.text for token in tokens[at : at + 3]] == ["#", "!", "["]
        if inner or [token.text for token in tokens[at : at + 2]] == ["#", "["]:
            end = group_end(tokens, at + 1 + inner)
            attribute = tokens[at + 2 + inner : end - 1]
            if is_for_tests(attribute):
                if inner:
                    return None
                at = item_end(tokens, end)
                continue
            kept += paths_in_strings(attribute)
            at = end
            continue
        kept.append(tokens[at])
        at += 1
    return kept


def is_for_tests(attribute):
    """Tells whether `cfg(..)` holds in test builds only."""
    if [token.text for token in attribute[:2]] != ["cfg", "("]:
        return False
    texts = [token.text for token in attribute[2:-1]]

    def value(at):
        """The predicate at `at` when `test` is false and all else unknown, and its end."""
        name = texts[at]
        if at + 1 < len(texts) and texts[at + 1] == "(":
            values, at = [], at + 2
            while texts[at] != ")":
                one, at = value(at)
                values.append(one)
                at += texts[at] == ","
            if name == "all":
                known = False if False in values else None
            elif name == "any":
                known = False if set(values) == {False} else None
            else:
                known = True if values == [False] else None
            return known, at + 1
        at += 1
        if at < len(texts) and texts[at] == "=":
            at += 2
        return (False if name == "test" else None), at

    return value(0)[0] is False


def item_end(tokens, at):
    """Returns the index behind the item, statement, field or arm at `at`."""
    while tokens[at].text == "#":
        at = group_end(tokens, at + 1)
    start, words = at, []
    while tokens[at].kind == "name" or tokens[at].text in ("(", ":", "::"):
        words.append(tokens[at].text)
        at = group_end(tokens, at) if tokens[at].text == "(" else at + 1
    by_semicolon = {"use", "type", "static", "let"} & set(words)
    by_brace = {"fn", "impl", "mod", "trait", "struct", "enum", "macro_rules"} & set(words)
    if "const" in words and "fn" not in words:
        by_semicolon = True
    at = start
    while at < len(tokens):
        text = tokens[at].text
        if text == ";":
            return at + 1
        if text in CLOSE or (text == "," and not by_semicolon and not by_brace):
            return at + (text == ",")
        brace, at = text == "{", group_end(tokens, at) if text in OPEN else at + 1
        if brace and not by_semicolon and (by_brace or at - 1 > start):
            return at
    return at


def paths_in_strings(attribute):
    """An attribute with its strings that are paths, as of serde, read as paths."""
    read = []
    for token in attribute:
        path = token.text.strip('"')
        if token.kind == "string" and re.fullmatch(r"\w+(::\w+)+", path):
            read.append(Token("mark", ";", token.line))
            read += [token._replace(line=token.line) for token in tokens_of(path)]
            read.append(Token("mark", ";", token.line))
        else:
            read.append(token)
    return read


# The crate: its modules, what each defines, imports and names.


class Module:
    def __init__(self, path, file, parent):
        self.path, self.file, self.parent = path, file, parent
        self.children = {}
        self.items = set()  # what is defined here
        self.macros = set()  # those of `items` that are `macro_rules!`
        self.uses = []  # Use
        self.paths = []  # (names, line)
        self.words = collections.Counter()  # names in code, but not in `use`


Use = collections.namedtuple("Use", "names alias public line")
Edge = collections.namedtuple("Edge", "source target name line reexport")


class Crate:
    def __init__(self, folder):
        self.folder = folder
        self.modules = []
        self.root = self.load((), os.path.join("src", "lib.rs"), None)

    def load(self, path, file, parent):
        """Reads a file and the modules that it declares."""
        module = Module(path, file, parent)
        self.modules.append(module)
        with open(os.path.join(self.folder, file), encoding="utf-8") as source:
            tokens = without_tests(tokens_of(source.read()))
        if tokens is not None:
            self.read(module, tokens, 0, len(tokens))
        return module

    def declare(self, parent, name):
        """Reads the file of `mod name;`."""
        folder, last = os.path.split(parent.file)
        if last not in ("mod.rs", "lib.rs"):
            folder = os.path.join(folder, last.removesuffix(".rs"))
        for file in (f"{name}.rs", os.path.join(name, "mod.rs")):
            file = os.path.join(folder, file)
            if os.path.exists(os.path.join(self.folder, file)):
                parent.children[name] = self.load(parent.path + (name,), file, parent)
                return
        sys.exit(f"{parent.file}: there is no file for `mod {name};`")

    def read(self, module, tokens, at, end):
        """Reads the tokens of a module into `module`."""
        depth, public = 0, False
        while at < end:
            token = tokens[at]
            before = tokens[at - 1].text if at else ""
            next_is = tokens[at + 1] if at + 1 < end else Token("mark", "", token.line)
            if token.text == "pub" and token.kind == "name":
                public = True
                at = group_end(tokens, at + 1) if next_is.text == "(" else at + 1
                continue
            if token.kind == "name" and before not in ("::", "."):
                if token.text == "use" and next_is.text != "<":
                    at = self.read_use(module, tokens, at + 1, public)
                    public = False
                    continue
                if token.text == "mod" and depth == 0 and next_is.kind == "name":
                    name, at = next_is.text, at + 3
                    if tokens[at - 1].text == ";":
                        self.declare(module, name)
                    else:
                        close = group_end(tokens, at - 1)
                        child = Module(module.path + (name,), module.file, module)
                        self.modules.append(child)
                        module.children[name] = child
                        self.read(child, tokens, at, close - 1)
                        at = close
                    public = False
                    continue
                if depth == 0 and next_is.kind == "name" and token.text in (
                    "struct", "enum", "union", "trait", "fn", "type", "const", "static",
                ):
                    module.items.add(next_is.text)
                if token.text == "macro_rules" and next_is.text == "!":
                    module.items.add(tokens[at + 2].text)
                    module.macros.add(tokens[at + 2].text)
                names, behind = [token.text], at + 1
                while behind + 1 < end and tokens[behind].text == "::":
                    if tokens[behind + 1].kind != "name":
                        break
                    names.append(tokens[behind + 1].text)
                    behind += 2
                if len(names) > 1 or next_is.text == "!":
                    module.paths.append((names, token.line))
                module.words[token.text] += 1
                at, public = behind, False
                continue
            public = False
            depth += (token.text in OPEN) - (token.text in CLOSE)
            at += 1

    def read_use(self, module, tokens, at, public):
        """Reads a `use` declaration; returns the index behind its `;`."""

        def tree(at, prefix):
            names = list(prefix)
            if tokens[at].text == "::":
                at += 1
                names = ["::"]
            while True:
                token = tokens[at]
                if token.text == "{":
                    at += 1
                    while tokens[at].text != "}":
                        at = tree(at, names)
                        at += tokens[at].text == ","
                    return at + 1
                if token.text == "self" and names:
                    pass
                else:
                    names.append(token.text)
                at += 1
                if tokens[at].text == "::":
                    at += 1
                    continue
                alias = names[-1]
                if tokens[at].text == "as":
                    alias = tokens[at + 1].text
                    at += 2
                module.uses.append(Use(tuple(names), alias, public, token.line))
                return at

        while tokens[at].text != ";":
            at = tree(at, [])
        return at + 1

    # Finding what a path names.

    def find(self, module, names, seen=frozenset()):
        """Returns (module, name or `None`) where the item is defined.

        `None` if the path leads out of the crate.
        """
        names = list(names)
        if names[0] == "::":
            return None
        if names[0] == "crate":
            module, names = self.root, names[1:]
        else:
            if names[0] not in ("self", "super") and not self.knows(module, names[0]):
                return None
            while names and names[0] in ("self", "super"):
                module = module.parent if names[0] == "super" else module
                names = names[1:]
        while names:
            name, names = names[0], names[1:]
            if name == "*":
                return module, "*"
            if name in module.children and (names or name not in module.items):
                module = module.children[name]
                continue
            if name in module.items:
                return module, name
            for use in module.uses:
                if use.alias == name and (key := (module, use.names, name)) not in seen:
                    found = self.find_used(module, use, seen | {key})
                    if found is None:
                        return None
                    if found[1] is None and names:
                        return self.find(found[0], ["self"] + names, seen | {key})
                    return found
                if use.alias == "*" and (key := (module, use.names, name)) not in seen:
                    found = self.find(module, use.names[:-1], seen | {key})
                    if found and found[1] is None and self.knows(found[0], name):
                        return self.find(found[0], ["self", name] + names, seen | {key})
            return module, name
        return module, None

    def find_used(self, module, use, seen):
        """`find` for a `use`, whose first name is not the alias that it brings."""
        first = use.names[0]
        known = first in module.children or first in module.items
        if first == use.alias and len(use.names) > 1 and not known:
            return None
        return self.find(module, use.names, seen)

    @staticmethod
    def knows(module, name):
        brought = any(use.alias == name for use in module.uses)
        return name in module.children or name in module.items or brought

    def edges(self):
        """All imports between files: `Edge`s, each counted once a line."""
        for module in self.modules:
            if module is self.root:
                continue
            through = collections.Counter(names[0] for names, _ in module.paths if len(names) > 1)
            for use in module.uses:
                if (found := self.find(module, use.names)) is None:
                    continue
                target, name = found
                # A module that is imported for the names in it: those count.
                if name is None and through[use.alias] and not use.public:
                    continue
                reexport = use.public and not module.words[use.alias]
                yield self.edge(module, target, name, use.line, reexport)
            for names, line in module.paths:
                if len(names) == 1:
                    if (target := self.parents_macro(module, names[0])) is not None:
                        yield self.edge(module, target, names[0], line, False)
                elif (found := self.find(module, names)) is not None:
                    yield self.edge(module, *found, line, False)

    def edge(self, module, target, name, line, reexport):
        if name is None:  # a module as such
            name = target.path[-1] if target.path else "crate"
        return Edge(module, target, name, line, reexport)

    def parents_macro(self, module, name):
        """The parent that defines the macro `name!`, unless a `use` brings it."""
        if self.knows(module, name):
            return None
        while (module := module.parent) is not None:
            if name in module.macros:
                return module
        return None

    def crates(self, module):
        """What a module names of other crates: (names, line)."""
        for use in module.uses:
            if self.find_used(module, use, frozenset()) is None:
                yield [name for name in use.names if name != "::"], use.line
        for names, line in module.paths:
            first = names[0]
            if len(names) > 1 and first.islower() and first not in PRIMITIVES | TOOLS:
                if first not in ("crate", "self", "super") and not self.knows(module, first):
                    yield names, line


# What may begin a path without being a crate: primitive types, and tools in attributes.
PRIMITIVES = set("bool char f32 f64 i8 i16 i32 i64 i128 isize".split())
PRIMITIVES |= set("str u8 u16 u32 u64 u128 usize".split())
TOOLS = {"clippy", "diagnostic", "rustdoc", "rustfmt"}

# The rules.


def check(folder):
    """Returns the violations in a crate, each a paragraph."""
    crate = Crate(folder)
    edges = [edge for edge in crate.edges() if edge.source.file != edge.target.file]
    edges = [edge for edge in edges if edge.target is not crate.root]
    return circles(edges) + upward(crate, edges) + impure(crate, edges)


def circles(edges):
    graph = collections.defaultdict(lambda: collections.defaultdict(dict))
    for edge in edges:
        if not edge.reexport:
            graph[edge.source.file][edge.target.file].setdefault(edge.name, edge.line)
    violations = []
    for circle in tied(graph):
        lines = [f"import circle of {len(circle)} files:"]
        for source in sorted(circle):
            for target in sorted(set(graph[source]) & circle):
                names = graph[source][target]
                lines.append(
                    f"    {source}:{min(names.values())}: imports {', '.join(sorted(names))}"
                    f" from {target}"
                )
        violations.append("\n".join(lines))
    return sorted(violations)


def tied(graph):
    """The sets of files that reach each other (Tarjan's strongly connected components)."""
    index, low, stack, found = {}, {}, [], []

    def visit(file):
        index[file] = low[file] = len(index)
        stack.append(file)
        for target in list(graph[file]):
            if target not in index:
                visit(target)
                low[file] = min(low[file], low[target])
            elif target in stack:
                low[file] = min(low[file], index[target])
        if low[file] == index[file]:
            at = stack.index(file)
            found.append(set(stack[at:]))
            del stack[at:]

    for file in sorted(graph):
        if file not in index:
            visit(file)
    return [circle for circle in found if len(circle) > 1]


def floor_of(path):
    """Returns (number, name) of a module's floor from the top; `None` if it has none."""
    path, best = "::".join(path) + "::", None
    for number, (name, modules) in enumerate(FLOORS):
        for module in modules:
            if path.startswith(module + "::") and (best is None or len(module) > best[2]):
                best = (number, name, len(module))
    return best and best[:2]


def upward(crate, edges):
    violations = []
    for module in crate.modules:
        beside = module.path[:1] and module.path[0] in BESIDE
        if module.path and not beside and floor_of(module.path) is None:
            name = "::".join(module.path)
            violations.append(
                f"{module.file}: `{name}` is on no floor; add it to FLOORS in .ci/imports.py"
            )
    public = {crate.find(crate.root, use.names) for use in crate.root.uses if use.public}
    for edge in edges:
        if (floor := floor_of(edge.source.path)) is None:
            if edge.source.path[0] not in BESIDE:
                continue
            below = floor_of(edge.target.path)
            if below and below[1] != "vocabulary" and (edge.target, edge.name) not in public:
                violations.append(
                    f"{edge.source.file}:{edge.line}: imports {edge.name} from {below[1]}"
                    f" ({edge.target.file}), which is not public"
                )
            continue
        where = f"{edge.source.file}:{edge.line}: {floor[1]} imports {edge.name}"
        if edge.target.path[0] in BESIDE:
            violations.append(f"{where} from {edge.target.file}, which stands beside the house")
        elif (above := floor_of(edge.target.path)) and above[0] < floor[0]:
            violations.append(f"{where} from {above[1]}, a floor above it ({edge.target.file})")
    return sorted(set(violations))


def impure(crate, edges):
    violations = []
    for edge in edges:
        floors = [floor_of(edge.source.path), floor_of(edge.target.path)]
        if all(floors) and floors[0][1] == RULES != floors[1][1]:
            if floors[1][0] > floors[0][0] and edge.name not in RULES_MAY_IMPORT:
                violations.append(
                    f"{edge.source.file}:{edge.line}: {RULES} may not import {edge.name};"
                    f" of the vocabulary it may import {', '.join(sorted(RULES_MAY_IMPORT))}"
                )
    for module in crate.modules:
        if (floor_of(module.path) or ("", ""))[1] != RULES:
            continue
        for names, line in crate.crates(module):
            path = "::".join(names)
            if names[0] != "std":
                violations.append(f"{module.file}:{line}: {RULES} may not import {path}, only std")
            elif set(names) & RULES_MAY_NOT_IMPORT:
                violations.append(
                    f"{module.file}:{line}: {RULES} may not import {path}: no clock, no I/O"
                )
    return sorted(set(violations))


# The script on crates made for it.

CLEAN = {
    "lib.rs": """
        mod error; mod middleware; mod session;
        #[cfg(test)]
        mod tests;
        pub use session::Session;
    """,
    "error.rs": "pub struct Error; pub enum ErrorKind { Closed }",
    "middleware/mod.rs": """
        mod layer; mod service;
        pub use layer::Layer; pub use service::Service;
    """,
    "middleware/layer.rs": "use super::Service; use crate::Session; pub struct Layer(Service);",
    "middleware/service.rs": """
        use crate::session::driver;
        pub struct Service(driver::Driver);
        #[cfg(test)]
        mod tests { use super::super::layer::Layer; }
        #[cfg(all(test, feature = "x"))]
        use super::Layer;
        #[cfg(not(test))]
        fn quiet<'a>() -> &'a str { "use super::layer::Layer; // { " }
    """,
    "session/mod.rs": """
        pub(crate) mod driver; mod rules;
        pub use rules::State;
        /* use crate::middleware::Layer; /* nested */ */
        pub struct Session(driver::Driver);
    """,
    "session/driver.rs": "use super::rules::{self, State}; pub struct Driver(rules::Rules, State);",
    "session/rules/mod.rs": """
        mod time;
        use std::time::Duration;
        pub use time::State;
        use crate::error::{Error, ErrorKind};
        pub struct Rules(Error, Duration, u32);
        fn closed() -> (ErrorKind, u32) { (ErrorKind::Closed, u32::MAX) }
    """,
    "session/rules/time.rs": "pub struct State; #[cfg(test)] mod tests { use tokio::time; }",
    "tests.rs": "use crate::middleware::Layer;",
}

# What is changed in the clean crate, and words of the violation it must cause.
DEFECTS = [
    ("a clean crate", {}, None),
    (
        "a circle of two files",
        {"session/rules/time.rs": "use super::Rules; pub struct State(Rules);",
         "session/rules/mod.rs": "mod time; use time::State; pub struct Rules(State);"},
        ["import circle of 2 files", "src/session/rules/mod.rs:1: imports State",
         "src/session/rules/time.rs:1: imports Rules"],
    ),
    (
        "a circle through a third file, a re-export and a path in code",
        {"error.rs": "mod a; mod b; pub use a::A; pub struct Error; pub enum ErrorKind {}",
         "error/a.rs": "\npub struct A(super::b::B);",
         "error/b.rs": "use crate::error::A; pub struct B(A);"},
        ["import circle of 2 files", "src/error/a.rs:2: imports B from src/error/b.rs"],
    ),
    (
        "a circle through a re-export that the file also uses",
        {"session/rules/time.rs": "use super::Rules; pub struct State(Rules);",
         "session/rules/mod.rs": "mod time; pub use time::State; pub struct Rules(State);"},
        ["import circle of 2 files"],
    ),
    (
        "a circle through a macro of the parent",
        {"session/rules/mod.rs": """macro_rules! log { () => {} }
                                    mod time; pub struct Rules(time::State);""",
         "session/rules/time.rs": "pub struct State; fn f() { log!() }"},
        ["import circle of 2 files", "src/session/rules/time.rs:1: imports log"],
    ),
    (
        "an upward import",
        {"session/driver.rs": "use crate::middleware::Layer; pub struct Driver(Layer);"},
        ["src/session/driver.rs:1: session::driver imports Layer from middleware"],
    ),
    (
        "an upward re-export",
        {"error.rs": "pub use crate::session::State; pub struct Error; pub enum ErrorKind {}"},
        ["src/error.rs:1: vocabulary imports State from session::rules"],
    ),
    (
        "an import of what stands beside",
        {"lib.rs": "mod client; mod error; mod middleware; mod session; pub use session::Session;",
         "client.rs": "pub struct Client;",
         "error.rs": "pub struct Error(crate::client::Client); pub enum ErrorKind {}"},
        ["vocabulary imports Client from src/client.rs, which stands beside"],
    ),
    (
        "an import of what is not public by what stands beside",
        {"lib.rs": "mod client; mod error; mod middleware; mod session; pub use session::Session;",
         "client.rs": "use crate::session::driver::Driver; use crate::Session; pub struct Client;"},
        ["src/client.rs:1: imports Driver from session::driver (src/session/driver.rs), which is"],
    ),
    (
        "a module on no floor",
        {"lib.rs": "mod error; mod middleware; mod session; mod utils; pub use session::Session;",
         "utils.rs": ""},
        ["src/utils.rs: `utils` is on no floor"],
    ),
    (
        "tokio in the rules, by a use",
        {"session/rules/time.rs": "use tokio::time::Sleep; pub struct State(Sleep);"},
        ["src/session/rules/time.rs:1: session::rules may not import tokio::time::Sleep"],
    ),
    (
        "tokio in the rules, by a path",
        {"session/rules/time.rs": "pub struct State; fn f() { tokio::task::yield_now(); }"},
        ["src/session/rules/time.rs:1: session::rules may not import tokio::task::yield_now"],
    ),
    (
        "a clock in the rules",
        {"session/rules/time.rs": "use std::time::{Duration, Instant}; pub struct State(Instant);"},
        ["session::rules may not import std::time::Instant: no clock"],
    ),
    (
        "a word that is not in the list of the rules",
        {"error.rs": "pub struct Error; pub enum ErrorKind {} pub struct Chain;",
         "session/rules/time.rs": "pub struct State(crate::error::Chain);"},
        ["src/session/rules/time.rs:1: session::rules may not import Chain"],
    ),
]


def self_test():
    failed = 0
    for name, changes, words in DEFECTS:
        with tempfile.TemporaryDirectory() as folder:
            for file, text in {**CLEAN, **changes}.items():
                file = os.path.join(folder, "src", file)
                os.makedirs(os.path.dirname(file), exist_ok=True)
                with open(file, "w", encoding="utf-8") as out:
                    out.write(text)
            found = "\n".join(check(folder))
        good = not found if words is None else all(word in found for word in words)
        print(f"{'ok' if good else 'FAILED'}: {name}")
        if not good:
            failed += 1
            print(f"    expected {words or 'nothing'}, found:\n{found or 'nothing'}")
    return 1 if failed else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if sys.argv[1:]:
        print(__doc__)
        return 2
    violations = check(".")
    for violation in violations:
        print(violation)
    print(f"{len(violations)} violations of the one-way rule for imports")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
