# SPDX-License-Identifier: GPL-2.0
"""Tests of lab/layers.py, see lab/selftest."""

import shutil

import layers
import lib
from selftest_case import Case


class Layers(Case):
    """lab/layers.py, with crates of a few lines."""

    def crate(self, **files):
        for name, text in files.items():
            self.write(f"src/{name.replace('__', '/')}.rs", text)
        return self.run_in_clone("lab/layers.py", str(self.folder / "src"))

    def one_way(self, **files):
        done = self.crate(**files)
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def circle(self, wanted, **files):
        done = self.crate(**files)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertEqual(done.stdout.replace(f"{self.folder}/src/", "").splitlines(), wanted)

    def test_one_way(self):
        self.one_way(lib="mod a; mod b;", a="use crate::b::{self, B};", b="// use crate::a::A;\npub struct B;")

    def test_circle(self):
        self.circle(["a circle of a, b, c:", "  a.rs:1 needs b.rs", "  b.rs:2 needs c.rs", "  c.rs:1 needs a.rs"],
                    lib="mod a; mod b; mod c; mod d;", a="use super::b::B;", b="\nuse super::{c::C, d};",
                    c="const A: u8 = crate::a::A;", d="")

    def test_folder_that_hands_on(self):
        self.one_way(lib="mod a;", a__mod="mod b; mod c; pub use c::C; const A: u8 = 1;",
                     a__b="use super::{A, C};", a__c="")

    def test_folder_that_uses_what_is_in_it(self):
        self.circle(["a circle of a, a::b:", "  a/mod.rs:1 needs a/b.rs", "  a/b.rs:1 needs a/mod.rs"],
                    lib="mod a;", a__mod="mod b; const B: u8 = b::B; const A: u8 = 1;", a__b="use super::A;")

    def test_folders(self):
        self.circle(["a circle of a, b:", "  a/c.rs:1 needs b/c.rs", "  b/d.rs:1 needs a/d.rs"],
                    lib="mod a; mod b;", a__mod="mod c; mod d;", b__mod="mod c; mod d;",
                    a__c="use crate::b::c::C;", a__d="", b__c="", b__d="use crate::a::d::D;")

    def test_tests_in_a_file(self):
        self.one_way(lib="mod a; mod b;", a="pub struct A; mod tests { use super::super::b::B; use super::A; }",
                     b='const TEXT: &str = "use crate::a::A;";')

    def test_macro(self):
        self.circle(["a circle of a, b:", "  a.rs:2 needs b.rs", "  b.rs:1 needs a.rs"],
                    lib="mod a; mod b;", b="crate::make!();",
                    a="#[macro_export] macro_rules! make { () => {} }\nuse crate::b::B;")

    def test_methods_elsewhere_than_their_type(self):
        """By what a name is, by `self`, by the type, by a constructor, and by an alias of the type."""
        for call in ("fn f(t: &mut T) { t.given(); }", "impl T { fn f(&self) { self.given(); } }",
                     "fn f() { T::given(); }", "fn f() { let t = T::new(); t.given(); }",
                     "fn f(at: u8, t: &'static crate::a::T) { t\n .given(); }"):
            with self.subTest(call):
                self.circle(["a circle of b, c:", "  b.rs:2 needs c.rs", "  c.rs:1 needs b.rs"],
                            lib="mod a; mod b; mod c;", a="pub struct T; pub type U = u8;",
                            b=f"use crate::a::{{self, T}};\n{call}\npub const B: u8 = 1;",
                            c="use crate::{a::T, b::B}; impl<'a, X: Fn() -> u8> T { fn given(&self) {} }")
        self.circle(["a circle of b, c:", "  b.rs:1 needs c.rs", "  c.rs:1 needs b.rs"],
                    lib="mod a; mod b; mod c;", a="pub struct T;",
                    b="pub type Alias = crate::a::T; fn f(x: Option<Alias>) { x.map(|x| x.given()); }",
                    c="use crate::b::Alias; impl Alias { fn given(&self) {} }")

    def test_methods_that_are_no_arrows(self):
        """Another type's method of the same name, a trait's, and one of which that cannot be told."""
        self.one_way(lib="mod a; mod b; mod c;", a="pub struct T; pub struct V; impl V { fn given(&self) {} }",
                     b="use crate::a::{T, V}; pub trait B { fn by_trait(&self); }\n"
                       "fn f(v: &V, t: &T) { v.given(); t.by_trait(); [t].map(|x| x.given()); }",
                     c="use crate::{a::T, b::B}; impl T { fn given(&self) {} } impl B for T { fn by_trait(&self) {} }")

    def test_folders_of_one_crate(self):
        below = self.write("below/mod.rs", "use crate::a::A;").parent
        self.write("src/lib.rs", "mod a;")
        self.write("src/a.rs", "use crate::below;")
        done = self.run_in_clone("lab/layers.py", str(self.folder / "src"), f"{below}=below")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("a circle of a, below:", done.stdout)

    def test_layers(self):
        below = self.write("below/a.rs", "use crate::b::B;").parent
        above = self.write("above/b.rs", "").parent
        top = self.write("top.rs", "use crate::b::B;")
        done = self.run_in_clone("lab/layers.py", f"{below}=below", str(above), f"{top}=top")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertEqual(done.stdout.replace(f"{self.folder}/", ""), "below/a.rs:1 needs above/b.rs, which is above it\n")

    def test_picture(self):
        """An arrow that a longer way says, too, is left out; a folder has its files' names."""
        self.write("src/low/mod.rs", "")
        self.write("src/low/deep.rs", "")
        self.write("src/mid.rs", "use crate::low::A;")
        self.write("src/top.rs", "use crate::{low::A, mid::B};")
        done = self.run_in_clone("lab/layers.py", "--dot", str(self.folder / "src"))
        self.assertEqual([line.strip() for line in done.stdout.splitlines() if "->" in line],
                         ["mid -> low;", "top -> mid;"])
        self.assertIn('low [label="low/\\ndeep"];', done.stdout)

    def test_of_the_module(self):
        """In the real one: an import upwards, a circle, one by way of another file, a method."""
        for name in ("rust", "src"):
            shutil.copytree(lib.ROOT / name, self.folder / name)
        places = [f"{self.folder}/{place}" for place in layers.OWN[0]]
        self.assertEqual(self.run_in_clone("lab/layers.py", *places).returncode, 0)
        for name, line in (("rust/kvm/addr.rs", "use crate::pure::spte::Spte;"),
                           ("rust/kvm/vcpu.rs", "use super::mmu::ShadowWalk;"),
                           ("rust/kvm/regs.rs", "fn f() { crate::fast::prepare(); }"),
                           ("rust/kvm/srcu.rs", "use crate::kvm::{Exit, Vcpu};"),
                           ("src/fault.rs", "use crate::{addr::Gpa, exit::{npf_interception}};"),
                           ("src/report/stats.rs", "use crate::exports::mmio_ext_see_access;"),
                           ("src/state.rs", "fn f(vcpu: &mut Vcpu<'_>) { vcpu.has_wildcards(); }"),
                           ("rust/kvm/io.rs", "impl<S> Vcpu<'_, S> { fn f(&self) { self.has_wildcards(); } }")):
            path = self.folder / name
            text = path.read_text()
            path.write_text(f"{line}\n{text}")
            with self.subTest(name):
                self.assertEqual(self.run_in_clone("lab/layers.py", *places).returncode, 1, line)
            path.write_text(text)
