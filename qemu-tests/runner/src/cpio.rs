// SPDX-License-Identifier: GPL-2.0-only
//! Writes initramfs images: the "newc" form of cpio that the kernel unpacks
//! (Documentation/driver-api/early-userspace/buffer-format.rst). No outside tool is needed.

/// An initramfs under construction.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// Adds a directory; its parent must have been added before.
    pub fn dir(&mut self, path: &str) {
        self.entry(path, 0o040_755, 2, 0, &[]);
    }

    /// Adds a regular file with permission bits `mode`.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.entry(path, 0o100_000 | mode, 1, 0, data);
    }

    /// Adds a character device. `/dev/console` must exist before devtmpfs is mounted, or init starts without output.
    pub fn char_device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, 0o020_600, 1, (major << 16) | minor, &[]);
    }

    /// The finished image.
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, 1, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, device: u32, data: &[u8]) {
        let path = path.trim_start_matches('/');
        self.inode += 1;
        let fields = [
            self.inode,
            mode,
            0,
            0,
            links,
            0,
            u32::try_from(data.len()).expect("a file of the initramfs is below 4 GiB"),
            0,
            0,
            device >> 16,
            device & 0xffff,
            u32::try_from(path.len() + 1).expect("a path is short"),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back by the format's description: (path, mode, data).
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut out = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name) = (field(1), field(6) as usize, field(11) as usize);
            let path = String::from_utf8(bytes[110..110 + name - 1].to_vec()).unwrap();
            if path == "TRAILER!!!" {
                return out;
            }
            let start = (110 + name).next_multiple_of(4);
            out.push((path, mode, bytes[start..start + size].to_vec()));
            bytes = &bytes[(start + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn reads_back() {
        let mut a = Archive::default();
        a.dir("/dev");
        a.char_device("/dev/console", 5, 1);
        a.file("/init", 0o755, b"12345");
        a.file("/empty", 0o644, b"");
        let files = read(&a.finish());
        assert_eq!(files.len(), 4);
        assert_eq!(files[0], ("dev".into(), 0o040_755, vec![]));
        assert_eq!(files[2], ("init".into(), 0o100_755, b"12345".to_vec()));
        assert_eq!(files[3].2, b"");
    }
}
