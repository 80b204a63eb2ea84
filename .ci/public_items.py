#!/usr/bin/env python3
"""Lists the public items of the crate. Run it in the crate's folder, after

    cargo doc --no-deps --all-features

    .ci/public_items.py                print the list
    .ci/public_items.py --write FILE   write it to FILE
    .ci/public_items.py --check FILE   compare it with FILE; exit 1 on a difference
    .ci/public_items.py --self-test    check how this script reads pages

Each line is one item with its full path and its declaration as rustdoc shows it:
modules, structs with public fields, enums with variants, traits and types with
their methods, functions, constants, type aliases and macros. An `impl` line is
listed for the crate's own traits and for `IMPL_LINES`, not for other traits and
not for auto traits. The list is sorted and does not depend on line lengths.

Each public item has exactly one path. Every mode exits 1 and names the paths if
an item has two: a `pub use` of an item whose module is public as well, or two
`pub use` of the same item. An item of another crate counts as one at the path
that re-exports it, and is listed without its methods.

The script reads rustdoc's HTML, since stable rustdoc has no other output. It
relies on file names (`struct.Token.html`), on the ids of anchors (`method.new`,
`variant.Closed`), and on the classes `item-decl`, `code-header` and `src`. It
fails if a page lacks them, rather than printing a shorter list.
"""

import difflib
import html.parser
import json
import os
import re
import sys

# Traits of other crates whose implementations are part of how a type is used.
IMPL_LINES = {"Clone", "Copy", "Default", "From", "FromStr", "TryFrom"}

# Ids of anchors that name a public part of an item.
PART = re.compile(
    r"^(?:structfield|variant|method|tymethod|associatedtype|associatedconstant)\.\w+(?:-\d+)?$"
    r"|^variant\.\w+\.field\.\w+$"
)
# The parts of a page that list something else than the item's own parts.
OTHERS = re.compile(
    r"^(?:trait-implementations|synthetic-implementations|blanket-implementations|implementors"
    r"|synthetic-implementors|foreign-impls)(?:-list)?$|^deref-methods"
)
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
# Text in a declaration that is not a part of it.
DECORATION = {"anchor", "src", "tooltip", "since", "rightside", "hideme", "comment"}


class Page(html.parser.HTMLParser):
    """One page: the item's declaration, its parts, and where its source is."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.is_item = 'id="main-content"' in text
        self.source = None  # link to the item's own source
        self.declaration = None
        self.parts = []  # (id, declaration)
        self.impls = []  # (declaration, links in it)
        self.reexports = []  # (name, link, declaration)
        self.open = []  # [tag, id, classes] of the elements around
        self.capture = None  # [depth, kind, texts, links]
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        classes = set((attributes.get("class") or "").split())
        element = [tag, attributes.get("id") or "", classes]
        if "src" in classes and self.source is None and self.declaration is None:
            self.source = attributes.get("href")
        if tag in VOID:
            return
        self.open.append(element)
        if self.capture:
            if tag == "a" and "href" in attributes:
                self.capture[3].append(attributes["href"])
            if tag == "div":  # a line of its own
                self.capture[2].append(" ")
        elif (kind := self.kind_of(element)) is not None:
            self.capture = [len(self.open), kind, [], []]

    def kind_of(self, element):
        """What the text of an element declares: an anchor's id, or `None`."""
        tag, _, classes = element
        if "item-decl" in classes and self.declaration is None:
            return "item-decl"
        if tag != "code" and "code-header" not in classes:
            return None
        for _, name, _ in reversed(self.open[:-1]):
            if name.startswith("reexport."):
                return name
            if PART.match(name):
                # The item's own parts only.
                return name if not any(OTHERS.match(e[1]) for e in self.open) else None
            if name.startswith("impl-"):
                around = {e[1] for e in self.open}
                own = {"implementations-list", "trait-implementations-list"}
                return "impl" if around & own else None
        return None

    def handle_endtag(self, tag):
        if not any(element[0] == tag for element in self.open):
            return
        while self.open:
            if self.capture and self.capture[0] == len(self.open):
                self.finish()
            elif self.capture and tag == "div":
                self.capture[2].append(" ")
            if self.open.pop()[0] == tag:
                return

    def handle_data(self, data):
        if self.capture:
            inside = self.open[self.capture[0] :]
            if not any(element[2] & DECORATION for element in inside):
                self.capture[2].append(data)

    def finish(self):
        _, kind, texts, links = self.capture
        self.capture, text = None, tidy("".join(texts))
        if kind == "item-decl":
            self.declaration = text
        elif kind == "impl":
            self.impls.append((text, links))
        elif kind.startswith("reexport."):
            self.reexports.append((kind.removeprefix("reexport."), links, text))
        elif not any(name == kind for name, _ in self.parts):
            self.parts.append((kind, text))


def tidy(text):
    """Collapses whitespace, and undoes the line breaks of a long declaration."""
    text = re.sub(r"\s+", " ", text.replace("\u00a0", " ")).strip()
    text = re.sub(r"([(\[<]) ", r"\1", text)
    text = re.sub(r",? ([)\]>])(?!=)", r"\1", text)
    return text.rstrip(",")


def head(declaration):
    """A declaration without its body: a struct's fields and so on are items of their own."""
    match = re.match(r"((?:#\[[^\]]*\] ?)*)(.*)$", declaration)
    attributes, text = match[1], match[2].rstrip(";")
    if not re.match(r"(?:pub )?(?:const|static|type) (?!fn)", text):
        text = text.partition("{")[0].rstrip(" ,")
    if re.match(r"(?:pub )?struct ", text):
        # A tuple without public fields: how many it has is nobody's business.
        text = re.sub(r"\((?:_|, )*\)", "", text)
    return attributes + text


class Docs:
    def __init__(self, folder):
        self.folder = folder
        self.name = os.path.basename(folder)
        self.lines = []
        self.places = {}  # what an item is -> its paths
        self.module(self.name, "")

    def read(self, file):
        with open(os.path.join(self.folder, file), encoding="utf-8") as page:
            return Page(page.read())

    def module(self, path, under):
        """Lists a module. Pages of an earlier build may lie beside its own."""
        with open(os.path.join(self.folder, under, "sidebar-items.js"), encoding="utf-8") as items:
            items = json.loads(re.search(r"\{.*\}", items.read(), re.DOTALL)[0])
        if path != self.name:
            self.lines.append(f"{path}: pub mod {path.rpartition('::')[2]}")
        for name, links, text in self.read(os.path.join(under, "index.html")).reexports:
            self.lines.append(f"{path}::{name}: {text.rstrip(';')}")
            target = os.path.normpath(os.path.join(under, links[-1])) if links else text
            self.places.setdefault(target, []).append(f"{path}::{name}")
        for kind, names in sorted(items.items()):
            for name in names:
                name = name if isinstance(name, str) else name[0]
                if kind == "mod":
                    self.module(f"{path}::{name}", os.path.join(under, name))
                else:
                    self.item(f"{path}::{name}", os.path.join(under, f"{kind}.{name}.html"))

    def item(self, path, file):
        page = self.read(file)
        if not page.is_item or page.declaration is None:
            sys.exit(f"{file} shows no declaration: does this rustdoc write other pages?")
        source = page.source and os.path.normpath(os.path.join(os.path.dirname(file), page.source))
        # By its page for a `pub use` that links to it, by its source for one that moves it.
        for key in {file, source or file}:
            self.places.setdefault(key, []).append(path)
        if not source or f"src/{self.name}/" not in source:
            self.lines.append(f"{path}: {head(page.declaration)} (of another crate)")
            return
        self.lines.append(f"{path}: {head(page.declaration)}")
        for name, text in page.parts:
            kind, *names = re.sub(r"-\d+$", "", name).split(".")
            names = [part for part in names if part != "field"]
            self.lines.append(f"{path}::{'::'.join(names)}: {head(text)}")
        for text, links in page.impls:
            if self.is_listed(text, links, path.rpartition("::")[2]):
                self.lines.append(f"{path}: {head(text)}")

    @staticmethod
    def is_listed(text, links, type_name):
        """Decides whether an `impl` of a page is a line of the list."""
        trait, is_of_a_trait, implementor = text.partition(" for ")
        if not is_of_a_trait:
            # Methods with bounds; the methods themselves are listed.
            return text.startswith("impl<")
        # The page of a type shows what other types are made of it, too.
        if not re.match(rf"(?:\w+::)*{type_name}\b", implementor):
            return False
        ours = [os.path.basename(link) for link in links if "://" not in link]
        names = re.findall(r"\w+", re.sub(r"^impl(<.*?>)? ", "", trait))
        return names[0] in IMPL_LINES or f"trait.{names[0]}.html" in ours

    def list(self):
        """The list: of one path, its declaration first."""
        def key(line):
            path, _, text = line.partition(": ")
            return path.split("::"), text.startswith("impl"), text

        return sorted(set(self.lines), key=key)

    def doubled(self):
        """The items that have two paths."""
        found = {tuple(sorted(set(paths))) for paths in self.places.values()}
        return sorted(paths for paths in found if len(paths) > 1)


def docs_folder():
    with open("Cargo.toml", encoding="utf-8") as manifest:
        name = re.search(r'^name = "(.*)"', manifest.read(), re.MULTILINE)[1].replace("-", "_")
    folder = os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "doc", name)
    if not os.path.exists(os.path.join(folder, "sidebar-items.js")):
        sys.exit(f"{folder} has no docs: run `cargo doc --no-deps --all-features` first")
    return folder


def self_test():
    page = Page("""<section id="main-content"><span class="sub-heading">
        <a class="src" href="../src/x/token.rs.html#1-9">Source</a></span>
        <pre class="rust item-decl"><code>
        <div class="code-attribute">#[non_exhaustive]</div>pub struct
        <a class="struct" href="#">Token</a>&lt;T&gt; {
            pub live: <a href="u8">u8</a>, <span class="comment">/* private fields */</span>
        }</code></pre>
        <span id="structfield.live" class="structfield"><a class="anchor" href="#">§</a>
        <code>live: <a href="u8">u8</a></code></span>
        <div id="implementations-list"><section id="impl-Token">
        <h3 class="code-header">impl&lt;T&gt; Token&lt;T&gt;</h3></section>
        <section id="method.new" class="method"><a class="src rightside" href="#">Source</a>
        <h4 class="code-header">pub fn <a class="fn" href="#">new</a>(
            a: A,&nbsp;
        ) -&gt; Self<div class="where">where
            T: Send,</div></h4></section><input><br></div>
        <div id="trait-implementations-list"><section id="impl-Clone-for-Token">
        <h3 class="code-header">impl <a href="https://x/trait.Clone.html">Clone</a> for Token</h3>
        </section><section id="method.clone">
        <h4 class="code-header">fn clone(&amp;self)</h4></section></div>""")
    assert page.is_item and page.source == "../src/x/token.rs.html#1-9"
    assert head(page.declaration) == "#[non_exhaustive] pub struct Token<T>", page.declaration
    expected = [
        ("structfield.live", "live: u8"),
        ("method.new", "pub fn new(a: A) -> Self where T: Send"),
    ]
    assert page.parts == expected, page.parts
    expected = [
        ("impl<T> Token<T>", []),
        ("impl Clone for Token", ["https://x/trait.Clone.html"]),
    ]
    assert page.impls == expected, page.impls
    for text, link, listed in [
        ("impl<T> Token<T>", "", True),
        ("impl Token", "", False),
        ("impl Clone for Token", "https://x/trait.Clone.html", True),
        ("impl Debug for Token", "https://x/trait.Debug.html", False),
        ("impl<B: Body> Replay<B> for Token", "../trait.Replay.html", True),
        ("impl From<Token> for Error", "https://x/trait.From.html", False),
    ]:
        assert Docs.is_listed(text, [link], "Token") == listed, text
    assert head("pub type E = Box<dyn A>;") == "pub type E = Box<dyn A>"
    assert head("pub trait T: A where B: C { fn f(); }") == "pub trait T: A where B: C"
    assert head("pub struct S();") == "pub struct S"
    assert head("pub struct S<F>(_, _) where F: A;") == "pub struct S<F> where F: A"
    assert head("pub const fn f(a: A) -> B") == "pub const fn f(a: A) -> B"
    assert head("pub const MOST: usize = 3;") == "pub const MOST: usize = 3"
    print("ok")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    mode, *files = sys.argv[1:] or ["--print"]
    if mode not in ("--print", "--write", "--check") or len(files) != (mode != "--print"):
        print(__doc__)
        return 2
    docs = Docs(docs_folder())
    failed = 0
    for paths in docs.doubled():
        print(f"one item has {len(paths)} public paths: {', '.join(paths)}", file=sys.stderr)
        failed = 1
    text = "".join(line + "\n" for line in docs.list())
    if mode == "--print":
        sys.stdout.write(text)
    elif mode == "--write":
        with open(files[0], "w", encoding="utf-8") as out:
            out.write(text)
    else:
        old = ""
        if os.path.exists(files[0]):
            with open(files[0], encoding="utf-8") as checked_in:
                old = checked_in.read()
        if old != text:
            failed = 1
            sys.stdout.writelines(
                difflib.unified_diff(
                    old.splitlines(True), text.splitlines(True), files[0], "the docs", n=1
                )
            )
            print(
                f"The public items differ from {files[0]}. If that is meant, write it anew with\n"
                f"    cargo doc --no-deps --all-features && .ci/public_items.py --write {files[0]}"
            )
    return failed


if __name__ == "__main__":
    sys.exit(main())
