// SPDX-License-Identifier: GPL-2.0
//! Just enough of ACPI's machine language to name devices and what they have.
//!
//! Sections are those of the ACPI specification 6.5.

/// 20.2.5.1: `Name (name, value)`, of four characters.
pub fn name(name: &str, value: Vec<u8>) -> Vec<u8> {
    [&[0x08], name.as_bytes(), &value].concat()
}

/// 20.2.5.2: `Device (\\_SB.name) { ... }` with its identifiers and resources.
pub fn device(device: &str, id: Vec<u8>, number: u8, has: &[Vec<u8>]) -> Vec<u8> {
    let contents = [
        // A path from the root, of two names.
        [b"\\\x2e_SB_", device.as_bytes()].concat(),
        name("_HID", id),
        name("_UID", byte(number)),
        name("_CRS", resources(has)),
    ];
    [vec![0x5b, 0x82], with_length(contents.concat())].concat()
}

/// 20.2.5.4: `Package () { byte }`
pub fn package(byte: u8) -> Vec<u8> {
    vec![0x12, 4, 1, 0x0a, byte]
}

/// 20.2.3: integers and strings.
fn byte(value: u8) -> Vec<u8> {
    vec![0x0a, value]
}

fn dword(value: u32) -> Vec<u8> {
    [&[0x0c][..], &value.to_le_bytes()].concat()
}

/// The same.
pub fn string(text: &str) -> Vec<u8> {
    [&[0x0d], text.as_bytes(), &[0]].concat()
}

/// 19.3.4: three letters of five bits and four digits, e.g. `PNP0501`.
pub fn eisa(id: &str) -> Vec<u8> {
    let (letters, digits) = id.split_at(3);
    let number = u32::from_str_radix(digits, 16).expect("hexadecimal digits");
    let maker = letters
        .bytes()
        .fold(0, |maker, letter| maker << 5 | u32::from(letter - b'@'));
    dword((maker << 16 | number).swap_bytes())
}

/// 6.4: `ResourceTemplate () { resources }`
fn resources(resources: &[Vec<u8>]) -> Vec<u8> {
    // An end tag without a sum.
    let all = [resources.concat(), vec![0x79, 0]].concat();
    let size = byte(all.len() as u8);
    [vec![0x11], with_length([size, all].concat())].concat()
}

/// 6.4.2.5
pub fn ports(first: u16, count: u8) -> Vec<u8> {
    let [low, high] = first.to_le_bytes();
    vec![0x47, 1, low, high, low, high, 1, count]
}

/// 6.4.3.4: memory that can be written.
pub fn memory(base: u64, size: u64) -> Vec<u8> {
    let (base, size) = (base as u32, size as u32);
    [
        &[0x86, 9, 0, 1][..],
        &base.to_le_bytes(),
        &size.to_le_bytes(),
    ]
    .concat()
}

/// 6.4.3.5.3: the only bus, of the number 0.
pub fn bus() -> Vec<u8> {
    vec![0x88, 13, 0, 2, 0b1100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
}

/// 6.4.3.5.2: memory that a bridge hands on to its devices.
pub fn window(base: u64, size: u64) -> Vec<u8> {
    let (base, size) = (base as u32, size as u32);
    let words = [0, base, base + size - 1, 0, size].map(u32::to_le_bytes);
    [&[0x87, 23, 0, 0, 0b1100, 1][..], &words.concat()].concat()
}

/// 6.4.3.6: an edge to high, that its device has for itself.
pub fn interrupt(line: u32) -> Vec<u8> {
    [&[0x89, 6, 0, 0b0011, 1][..], &line.to_le_bytes()].concat()
}

/// 20.2.4: the length counts itself, in two bytes here.
fn with_length(body: Vec<u8>) -> Vec<u8> {
    let length = body.len() + 2;
    assert!(length < 1 << 12);
    let encoded = [0x40 | (length & 0xf) as u8, (length >> 4) as u8];
    [&encoded[..], &body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_compiler_has_it() {
        // Of `iasl`: EisaId ("PNP0501").
        assert_eq!(eisa("PNP0501"), [0x0c, 0x41, 0xd0, 0x05, 0x01]);
        assert_eq!(
            with_length(vec![0; 0x1e]),
            [&[0x40, 2][..], &[0; 0x1e]].concat()
        );
    }
}
