// SPDX-License-Identifier: GPL-2.0-only
//! Changes a flattened device tree (Devicetree Specification 0.4, chapters 3.5 and 5): adds a `/reserved-memory` node with
//! a no-map region, which QEMU's own tree has not, and which EL2 treats as memory that nobody may be given; or moves the
//! end of a GIC's region off a page.

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const END: u32 = 9;

/// Puts `base..base + size` under no-map.
///
/// # Errors
/// What about the tree is not as the specification says.
pub fn add_no_map(tree: &[u8], base: u64, size: u64) -> Result<Vec<u8>, String> {
    let header = |n: usize| -> Result<u32, String> {
        let bytes = tree.get(4 * n..4 * n + 4).ok_or("the device tree is cut short")?;
        Ok(u32::from_be_bytes(bytes.try_into().expect("four bytes")))
    };
    if header(0)? != 0xd00d_feed {
        return Err("not a device tree".to_owned());
    }
    let (struct_at, strings_at) = (header(2)? as usize, header(3)? as usize);
    let (strings_len, struct_len) = (header(8)? as usize, header(9)? as usize);
    let mut structure = tree
        .get(struct_at..struct_at + struct_len)
        .ok_or("no structure block")?
        .to_vec();
    let mut strings = tree
        .get(strings_at..strings_at + strings_len)
        .ok_or("no strings block")?
        .to_vec();
    let map = tree
        .get(header(4)? as usize..struct_at)
        .ok_or("no reservation block")?
        .to_vec();

    // The structure ends with the root's END_NODE and END, and the new node goes before these two.
    let tail = [END_NODE.to_be_bytes(), END.to_be_bytes()].concat();
    if !structure.ends_with(&tail) {
        return Err("the structure block does not end with the root node".to_owned());
    }
    structure.truncate(structure.len() - tail.len());
    let mut node = Writer {
        out: &mut structure,
        strings: &mut strings,
    };
    node.begin("reserved-memory");
    node.prop("#address-cells", &2u32.to_be_bytes());
    node.prop("#size-cells", &2u32.to_be_bytes());
    node.prop("ranges", &[]);
    node.begin(&format!("no-map@{base:x}"));
    node.prop("reg", &[base.to_be_bytes(), size.to_be_bytes()].concat());
    node.prop("no-map", &[]);
    node.word(END_NODE);
    node.word(END_NODE);
    structure.extend_from_slice(&tail);

    let mut out = tree[..40].to_vec();
    let put = |out: &mut Vec<u8>, n: usize, value: usize| {
        let value = u32::try_from(value).expect("a device tree is small");
        out[4 * n..4 * n + 4].copy_from_slice(&value.to_be_bytes());
    };
    out.extend_from_slice(&map);
    let new_struct = 40 + map.len();
    let new_strings = new_struct + structure.len();
    out.extend_from_slice(&structure);
    out.extend_from_slice(&strings);
    let total = out.len();
    for (field, value) in [
        (1, total),
        (2, new_struct),
        (3, new_strings),
        (4, 40),
        (8, strings.len()),
        (9, structure.len()),
    ] {
        put(&mut out, field, value);
    }
    Ok(out)
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    strings: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn word(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    fn pad(&mut self) {
        while !self.out.len().is_multiple_of(4) {
            self.out.push(0);
        }
    }

    fn begin(&mut self, name: &str) {
        self.word(BEGIN_NODE);
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(0);
        self.pad();
    }

    fn prop(&mut self, name: &str, value: &[u8]) {
        let at = u32::try_from(self.strings.len()).expect("a device tree is small");
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        self.word(PROP);
        self.word(u32::try_from(value.len()).expect("a property is small"));
        self.word(at);
        self.out.extend_from_slice(value);
        self.pad();
    }
}

/// Makes the region of the GICv2's virtual CPU interface one that does not end at a page, as on boards where it cannot be
/// mapped into guests. QEMU puts it at [`GICV`].
///
/// # Errors
/// The tree has no such region.
pub fn odd_gicv(tree: &[u8]) -> Result<Vec<u8>, String> {
    let at = GICV.to_be_bytes();
    let start = tree
        .windows(8)
        .position(|window| window == at)
        .ok_or("the device tree has no GICv2")?;
    let mut out = tree.to_vec();
    let size = out
        .get_mut(start + 8..start + 16)
        .ok_or("the device tree is cut short")?;
    size.copy_from_slice(&ODD_SIZE.to_be_bytes());
    Ok(out)
}

/// Where QEMU's `virt` machine has the virtual CPU interface.
const GICV: u64 = 0x0804_0000;
/// Room for both frames of the interface, and a part of a page.
const ODD_SIZE: u64 = 0x2800;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_keeps_its_end() {
        let mut structure = Vec::new();
        let mut strings = Vec::new();
        let mut w = Writer {
            out: &mut structure,
            strings: &mut strings,
        };
        w.begin("");
        w.prop("compatible", b"test\0");
        w.word(END_NODE);
        w.word(END);
        let mut tree = vec![0; 56];
        let (s, t) = (structure.len(), strings.len());
        for (n, v) in [
            (0, 0xd00d_feed),
            (1, 56 + s + t),
            (2, 56),
            (3, 56 + s),
            (4, 40),
            (5, 17),
            (8, t),
            (9, s),
        ] {
            tree[4 * n..4 * n + 4].copy_from_slice(&(v as u32).to_be_bytes());
        }
        tree.extend(structure);
        tree.extend(strings);
        let new = add_no_map(&tree, 0x4700_0000, 0x20_0000).unwrap();
        let word = |n: usize| u32::from_be_bytes(new[4 * n..4 * n + 4].try_into().unwrap()) as usize;
        assert_eq!(word(1), new.len());
        assert_eq!(&new[word(2) + word(9) - 4..word(2) + word(9)], &END.to_be_bytes());
        assert!(new[word(2)..].windows(14).any(|w| w == b"no-map@4700000"));
        assert!(new[word(3)..].windows(7).any(|w| w == b"no-map\0"));
        assert!(add_no_map(&tree[..30], 0, 0).is_err());
    }
}
