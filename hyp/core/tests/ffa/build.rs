// SPDX-License-Identifier: GPL-2.0-only
//! Descriptors as a host builds them, each field for a test to spoil.

use pkvm_types::PAGE_SIZE;

#[derive(Clone, Debug)]
pub struct Build {
    pub sender: u16,
    pub attributes: u16,
    pub flags: u32,
    /// `None` for what the version wants.
    pub endpoint_size: Option<u32>,
    pub endpoints: u32,
    pub endpoint_at: Option<u32>,
    /// Bytes between the header and the endpoint's part, since 1.1.
    pub gap: u32,
    pub receiver: u16,
    pub composite_at: Option<u32>,
    pub total: Option<u32>,
    pub count: Option<u32>,
    /// Address, pages of 4 KiB.
    pub ranges: Vec<(u64, u32)>,
}

impl Build {
    /// A descriptor of runs of frames.
    pub fn of(frames: &[(u64, u64)]) -> Self {
        let range = |(pfn, count): &(u64, u64)| (pfn * PAGE_SIZE, (count * PAGE_SIZE / 4096) as u32);
        Self {
            sender: 0,
            attributes: 0x2f,
            flags: 0,
            endpoint_size: None,
            endpoints: 1,
            endpoint_at: None,
            gap: 0,
            receiver: 0x8001,
            composite_at: None,
            total: None,
            count: None,
            ranges: frames.iter().map(range).collect(),
        }
    }

    pub fn endpoint_size(version: u32) -> u32 {
        if version >= 0x1_0002 { 32 } else { 16 }
    }

    /// Where the composite descriptor is in a well-made descriptor.
    pub fn composite(version: u32) -> u32 {
        Self::header(version) + Self::endpoint_size(version)
    }

    pub fn header(version: u32) -> u32 {
        if version >= 0x1_0001 { 48 } else { 32 }
    }

    pub fn bytes(&self, version: u32) -> Vec<u8> {
        let later = version >= 0x1_0001;
        let size = Self::endpoint_size(version);
        let header = Self::header(version) + self.gap;
        let mut bytes = Vec::new();
        bytes.extend(self.sender.to_le_bytes());
        bytes.extend(self.attributes.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(0x7a67_u64.to_le_bytes());
        bytes.extend(
            self.endpoint_size
                .unwrap_or(if later { size } else { 0 })
                .to_le_bytes(),
        );
        bytes.extend(self.endpoints.to_le_bytes());
        if later {
            bytes.extend(self.endpoint_at.unwrap_or(header).to_le_bytes());
            bytes.extend([0; 12]);
        }
        bytes.resize(header as usize, 0);
        // The endpoint's part.
        bytes.extend(self.receiver.to_le_bytes());
        bytes.extend([2, 0]);
        bytes.extend(self.composite_at.unwrap_or(header + size).to_le_bytes());
        bytes.resize((header + size) as usize, 0);
        let pages = self
            .ranges
            .iter()
            .fold(0_u32, |sum, range| sum.wrapping_add(range.1));
        bytes.extend(self.total.unwrap_or(pages).to_le_bytes());
        bytes.extend(self.count.unwrap_or(self.ranges.len() as u32).to_le_bytes());
        bytes.extend([0; 8]);
        for (address, pages) in &self.ranges {
            bytes.extend(address.to_le_bytes());
            bytes.extend(pages.to_le_bytes());
            bytes.extend([0; 4]);
        }
        bytes
    }
}
