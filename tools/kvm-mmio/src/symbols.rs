// SPDX-License-Identifier: GPL-2.0
//! Names for instructions of guests: kallsyms, System.map, or the symbols of an ELF file.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSymbol, SymbolKind};

/// So far behind a symbol that does not say its size, there is something else.
const FAR: u64 = 1 << 20;

/// The functions of a guest, at the addresses at which it runs them.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    /// In the order of their addresses.
    symbols: Vec<Symbol>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Symbol {
    start: u64,
    /// 0: unknown.
    size: u64,
    name: String,
}

impl Symbols {
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut symbols = match bytes.starts_with(b"\x7fELF") {
            true => of_elf(&bytes)
                .with_context(|| format!("{} is no ELF file as it should be", path.display()))?,
            false => of_list(&String::from_utf8_lossy(&bytes)),
        };
        if symbols.is_empty() {
            bail!("{}: there are no functions in it", path.display());
        }
        if symbols.iter().all(|symbol| symbol.start == 0) {
            bail!(
                "{}: all addresses are 0; read /proc/kallsyms of the guest as root",
                path.display()
            );
        }
        symbols.sort();
        Ok(Self { symbols })
    }

    /// The function that an instruction is in, and where in it.
    pub fn name(&self, address: u64) -> Option<String> {
        let behind = self
            .symbols
            .partition_point(|symbol| symbol.start <= address);
        let symbol = self.symbols.get(behind.checked_sub(1)?)?;
        let offset = address - symbol.start;
        let size = if symbol.size == 0 { FAR } else { symbol.size };
        (offset < size).then(|| format!("{}+{offset:#x}", symbol.name))
    }
}

/// Lines of `ADDRESS TYPE NAME [MODULE]`; functions are of type t or w.
fn of_list(text: &str) -> Vec<Symbol> {
    let symbol = |line: &str| {
        let mut words = line.split_whitespace();
        let start = u64::from_str_radix(words.next()?, 16).ok()?;
        let is_code = matches!(words.next()?, "t" | "T" | "w" | "W");
        let name = words.next()?.to_owned();
        let size = 0;
        is_code.then_some(Symbol { start, size, name })
    };
    text.lines().filter_map(symbol).collect()
}

fn of_elf(bytes: &[u8]) -> Result<Vec<Symbol>> {
    let file = object::File::parse(bytes)?;
    let is_code =
        |symbol: &object::Symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition();
    let symbols = file.symbols().chain(file.dynamic_symbols()).filter(is_code);
    let owned = symbols.map(|symbol| Symbol {
        start: symbol.address(),
        size: symbol.size(),
        name: symbol.name().unwrap_or("?").to_owned(),
    });
    Ok(owned.collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(content: &[u8]) -> Result<Symbols> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        Symbols::read(file.path())
    }

    #[test]
    fn kallsyms() {
        let text = b"0000000000001000 A fixed_percpu_data\n\
            ffffffff81000000 T _stext\n\
            ffffffff81000400 t vm_notify\n\
            ffffffff81000500 D jiffies\n\
            ffffffffc0000000 t nvme_queue_rq\t[nvme]\n\
            not a line\n";
        let symbols = read(text).unwrap();
        for (address, name) in [
            (0xffff_ffff_8100_0000, Some("_stext+0x0")),
            (0xffff_ffff_8100_0412, Some("vm_notify+0x12")),
            (0xffff_ffff_c000_0008, Some("nvme_queue_rq+0x8")),
            (0xffff_ffff_c010_0000, None),
            (0x1000, None),
        ] {
            assert_eq!(symbols.name(address).as_deref(), name, "{address:#x}");
        }
    }

    #[test]
    fn what_names_nothing_is_refused() {
        let error = |content: &[u8]| format!("{:#}", read(content).unwrap_err());
        assert!(error(b"").contains("no functions"));
        assert!(error(b"\x7fELF, almost").contains("ELF"));
        let hidden = error(b"0000000000000000 T _stext\n");
        assert!(hidden.contains("as root"), "{hidden}");
    }

    /// This very program.
    #[test]
    fn elf() {
        let path = std::env::current_exe().unwrap();
        let symbols = Symbols::read(&path).unwrap();
        let bytes = fs::read(path).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let is_sized = |symbol: &object::Symbol| {
            symbol.kind() == SymbolKind::Text && symbol.size() > 1 && symbol.is_definition()
        };
        let some = file.symbols().find(is_sized).unwrap();
        let found = symbols.name(some.address() + 1).unwrap();
        assert!(found.ends_with("+0x1"), "{found}");
        assert_eq!(symbols.name(u64::MAX), None);
    }
}
