// SPDX-License-Identifier: GPL-2.0-only
//! Changes a flattened device tree (Devicetree Specification 0.4, chapters 3.5 and 5): QEMU's own has no memory under
//! no-map, which EL2 treats as memory that nobody may be given, and knows nothing of firmware that QEMU does not have; or
//! moves the end of a GIC's region off a page.

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;
const HEADER: usize = 40;

/// A node: its properties and what is below it, in their order.
#[derive(Default)]
pub struct Node {
    name: String,
    properties: Vec<(String, Vec<u8>)>,
    children: Vec<Node>,
}

/// A whole tree.
pub struct Tree {
    /// The header's words that say something else than where the blocks are: version, compatible version, boot CPU.
    kept: [u32; 3],
    reservations: Vec<u8>,
    /// The root.
    pub root: Node,
}

/// Reads the structure block.
struct Reader<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn word(&mut self) -> Result<u32, String> {
        let value = word_at(self.structure, self.at)?;
        self.at += 4;
        Ok(value)
    }

    fn node(&mut self) -> Result<Node, String> {
        let mut node = Node {
            name: text_at(self.structure, self.at)?,
            ..Node::default()
        };
        self.at = (self.at + node.name.len() + 4) & !3;
        loop {
            match self.word()? {
                BEGIN_NODE => node.children.push(self.node()?),
                END_NODE => return Ok(node),
                PROP => {
                    let (len, name) = (self.word()? as usize, self.word()? as usize);
                    let value = self.structure.get(self.at..self.at + len).ok_or(SHORT)?;
                    node.properties
                        .push((text_at(self.strings, name)?, value.to_vec()));
                    self.at = (self.at + len + 3) & !3;
                }
                NOP => {}
                other => return Err(format!("the device tree has a token {other}")),
            }
        }
    }
}

const SHORT: &str = "the device tree is cut short";

fn word_at(bytes: &[u8], at: usize) -> Result<u32, String> {
    let word = bytes.get(at..at + 4).ok_or(SHORT)?;
    Ok(u32::from_be_bytes(word.try_into().expect("four bytes")))
}

fn text_at(bytes: &[u8], at: usize) -> Result<String, String> {
    let rest = bytes.get(at..).ok_or(SHORT)?;
    let end = rest.iter().position(|b| *b == 0).ok_or(SHORT)?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}

impl Tree {
    /// Reads a flattened tree.
    ///
    /// # Errors
    /// What about it is not as the specification says.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let header = |n: usize| word_at(bytes, 4 * n);
        if header(0)? != 0xd00d_feed {
            return Err("not a device tree".to_owned());
        }
        let block = |at: u32, len: u32| {
            let at = at as usize;
            bytes.get(at..at + len as usize).ok_or(SHORT)
        };
        let mut reader = Reader {
            structure: block(header(2)?, header(9)?)?,
            strings: block(header(3)?, header(8)?)?,
            at: 0,
        };
        if reader.word()? != BEGIN_NODE {
            return Err("the device tree has no root".to_owned());
        }
        let reservations = block(header(4)?, header(2)?.saturating_sub(header(4)?))?.to_vec();
        Ok(Self {
            kept: [header(5)?, header(6)?, header(7)?],
            reservations,
            root: reader.node()?,
        })
    }

    /// The flattened form.
    pub fn flatten(&self) -> Vec<u8> {
        let mut structure = Vec::new();
        let mut strings = Vec::new();
        self.root.write(&mut structure, &mut strings);
        structure.extend(END.to_be_bytes());
        let size = |n: usize| u32::try_from(n).expect("a device tree is small");
        let structure_at = HEADER + self.reservations.len();
        let strings_at = structure_at + structure.len();
        let [version, compatible, boot_cpu] = self.kept;
        let header = [
            0xd00d_feed,
            size(strings_at + strings.len()),
            size(structure_at),
            size(strings_at),
            size(HEADER),
            version,
            compatible,
            boot_cpu,
            size(strings.len()),
            size(structure.len()),
        ];
        let mut out: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
        out.extend_from_slice(&self.reservations);
        out.extend(structure);
        out.extend(strings);
        out
    }

    /// Puts `base..base + size` under no-map.
    pub fn add_no_map(&mut self, base: u64, size: u64) {
        self.root
            .child("reserved-memory")
            .set("#address-cells", &2u32.to_be_bytes())
            .set("#size-cells", &2u32.to_be_bytes())
            .set("ranges", &[])
            .child(&format!("no-map@{base:x}"))
            .set("reg", &[base.to_be_bytes(), size.to_be_bytes()].concat())
            .set("no-map", &[]);
    }
}

impl Node {
    /// The child of this name, which is made if there is none.
    pub fn child(&mut self, name: &str) -> &mut Self {
        let at = self.children.iter().position(|c| c.name == name);
        let at = at.unwrap_or_else(|| {
            self.children.push(Self {
                name: name.to_owned(),
                ..Self::default()
            });
            self.children.len() - 1
        });
        &mut self.children[at]
    }

    /// All children whose name begins so.
    pub fn children(&mut self, prefix: &str) -> impl Iterator<Item = &mut Self> {
        self.children
            .iter_mut()
            .filter(move |c| c.name.starts_with(prefix))
    }

    /// Gives a property a value.
    pub fn set(&mut self, name: &str, value: &[u8]) -> &mut Self {
        match self.properties.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value.to_vec(),
            None => self.properties.push((name.to_owned(), value.to_vec())),
        }
        self
    }

    fn write(&self, structure: &mut Vec<u8>, strings: &mut Vec<u8>) {
        fn pad(out: &mut Vec<u8>) {
            out.resize(out.len().next_multiple_of(4), 0);
        }
        structure.extend(BEGIN_NODE.to_be_bytes());
        structure.extend_from_slice(self.name.as_bytes());
        structure.push(0);
        pad(structure);
        for (name, value) in &self.properties {
            let size = |n: usize| u32::try_from(n).expect("a property is small").to_be_bytes();
            structure.extend(PROP.to_be_bytes());
            structure.extend(size(value.len()));
            structure.extend(size(strings.len()));
            strings.extend_from_slice(name.as_bytes());
            strings.push(0);
            structure.extend_from_slice(value);
            pad(structure);
        }
        for child in &self.children {
            child.write(structure, strings);
        }
        structure.extend(END_NODE.to_be_bytes());
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

    fn sample() -> Tree {
        let mut root = Node::default();
        root.set("compatible", b"test\0").child("cpus").child("cpu@0");
        root.child("cpus").child("cpu@1").set("reg", &[0, 0, 0, 1]);
        Tree {
            kept: [17, 16, 0],
            reservations: vec![0; 16],
            root,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let bytes = sample().flatten();
        let again = Tree::parse(&bytes).unwrap();
        assert_eq!(again.flatten(), bytes);
        assert_eq!(word_at(&bytes, 4).unwrap() as usize, bytes.len());
        for cut in [0, 30, 60, bytes.len() - 1] {
            assert!(Tree::parse(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn nodes_are_found_or_made() {
        let mut tree = sample();
        assert_eq!(tree.root.child("cpus").children("cpu@").count(), 2);
        tree.add_no_map(0x4700_0000, 0x20_0000);
        tree.add_no_map(0x4800_0000, 0x20_0000);
        assert_eq!(tree.root.children("").count(), 2);
        let again = Tree::parse(&tree.flatten()).unwrap().flatten();
        assert!(again.windows(14).any(|w| w == b"no-map@4700000"));
        assert!(again.windows(14).any(|w| w == b"no-map@4800000"));
    }

    #[test]
    fn a_region_gets_its_odd_end() {
        let reg = |size: u64| [GICV.to_be_bytes(), size.to_be_bytes()].concat();
        let mut tree = sample();
        assert!(odd_gicv(&tree.flatten()).is_err());
        tree.root.child("intc").set("reg", &reg(0x1_0000));
        let odd = odd_gicv(&tree.flatten()).unwrap();
        assert!(odd.windows(16).any(|w| w == reg(ODD_SIZE)));
        assert!(Tree::parse(&odd).is_ok());
    }
}
