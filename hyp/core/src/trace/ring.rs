// SPDX-License-Identifier: GPL-2.0-only
//! The ring of one CPU: pages that EL2 fills with records, in the format of the kernel's ring buffer, and that the host
//! reads without asking, but for the swap that gives it the oldest page.
//!
//! One page is the reader's, the others form the ring. EL2 writes to the tail; when it meets the head, the oldest page
//! is lost. A swap takes the head page out for the reader and puts the reader's last page in its place, which is the
//! end of the ring. The tail can thus be on the reader's page: that is when the head was the tail, and nothing else
//! is in the ring.

use core::mem::replace;

use pkvm_types::{Error, HypVa, PAGE_SIZE, Result};

use super::desc::{Entry, Words};

/// Writes to the pages that the host lends. The host may change their content at any time, so nothing reads them.
pub trait SharedPages {
    /// Writes 8 bytes at a multiple of 8 within the page at `page`, which is lent for tracing.
    fn write(&self, page: HypVa, offset: u64, value: u64);
    /// The same, after all that was written before.
    fn publish(&self, page: HypVa, offset: u64, value: u64);
}

/// Takes pages that the host lends, and gives them back.
pub trait Lender {
    /// The page at the kernel's address `kernel_va`, which EL2 uses for nothing else, and which it can write to until
    /// [`put`](Self::put).
    fn take(&mut self, kernel_va: u64) -> Result<HypVa>;
    /// Gives it back.
    fn put(&mut self, page: HypVa);
}

/// A ring has a reader's page and two more at least.
pub const MIN_PAGES: u32 = 3;

/// Offsets in `struct buffer_data_page`. A page holds its time stamp, how many bytes of records follow the header, and
/// the records.
mod data {
    pub const TIME_STAMP: u64 = 0;
    pub const COMMIT: u64 = 8;
    pub const RECORDS: u64 = 16;
}

/// Offsets in `struct trace_buffer_meta`, which is the kernel's interface to user space.
pub mod meta {
    /// Its own size, and that of the structure.
    pub const PAGE_SIZE: u64 = 0;
    /// Bytes of a page that hold records, and how many pages there are.
    pub const SUBBUFS: u64 = 8;
    /// Records lost before those on the reader's page.
    pub const READER_LOST: u64 = 16;
    /// The number of the reader's page, and how much of it was read.
    pub const READER: u64 = 24;
    /// Records written.
    pub const ENTRIES: u64 = 40;
    /// Records lost.
    pub const OVERRUN: u64 = 48;
    /// Pages lost.
    pub const PAGES_LOST: u64 = 64;
    /// Pages written to.
    pub const PAGES_TOUCHED: u64 = 72;
    /// The size of the structure.
    pub const SIZE: u64 = 80;
}

/// Bytes of records that fit on a page.
const ROOM: u32 = PAGE_SIZE as u32 - data::RECORDS as u32;

/// Bytes before the data of a record: type and time, and the length.
const HEADER: u32 = 8;
/// The record type that extends the next record's time, and its size.
const TIME_EXTEND: u64 = 30;
const TIME_EXTEND_BYTES: u32 = 8;
/// Bits of a time that fit in a record's header, below them the type.
const TIME_SHIFT: u32 = 27;
const TYPE_BITS: u32 = 5;

/// The words of an event: its number in the low 16 bits, then its fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    first: u64,
    second: Option<u64>,
}

impl Record {
    pub(super) const fn one(first: u64) -> Self {
        Self { first, second: None }
    }
    pub(super) const fn two(first: u64, second: u64) -> Self {
        Self {
            first,
            second: Some(second),
        }
    }
    const fn bytes(self) -> u32 {
        match self.second {
            None => 8,
            Some(_) => 16,
        }
    }
}

/// What EL2 remembers of one page of a ring. It lies in the backing; the kernel allocates 40 bytes for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct BufferPage {
    /// Where EL2 sees the page.
    at: HypVa,
    /// For index `n`: the number of the page in place `n` of the ring. The last one has none.
    place: u32,
    /// Bytes of records on the page.
    bytes: u32,
    /// Records on the page.
    records: u32,
}

#[cfg(test)]
impl BufferPage {
    pub(super) const EMPTY: Self = Self {
        at: HypVa::new(0),
        place: 0,
        bytes: 0,
        records: 0,
    };
}

/// The ring of one CPU, once it is loaded. `'a` is the life of the backing.
#[derive(Debug)]
pub struct Ring<'a> {
    /// By number, as the host numbers them.
    pages: &'a mut [BufferPage],
    meta: HypVa,
    /// Whether records are written.
    on: bool,
    /// The number of the reader's page.
    reader: u32,
    /// The place of the oldest page in the ring.
    head: u32,
    /// The place of the page that is written to, `None` while that is the reader's page.
    tail: Option<u32>,
    /// The time of the last record.
    last: u64,
    /// The time stamp of the next page that becomes empty.
    blank: u64,
    entries: u64,
    overrun: u64,
    /// Records lost when the reader's page was last swapped.
    overrun_at_swap: u64,
    pages_lost: u64,
    pages_touched: u64,
}

impl<'a> Ring<'a> {
    /// Takes the pages of a descriptor's entry from the host. `pages` is as long as the entry says; its content does not
    /// matter. [`Error::Invalid`], and every page back with the host, where there are too few or one cannot be had.
    pub fn load<W: Words>(
        entry: &Entry,
        words: &W,
        pages: &'a mut [BufferPage],
        lender: &mut impl Lender,
        shared: &impl SharedPages,
    ) -> Result<Self> {
        if entry.pages < MIN_PAGES || pages.len() != entry.pages as usize {
            return Err(Error::Invalid);
        }
        let meta = lender.take(entry.meta).map_err(|_| Error::Invalid)?;
        for (n, page) in (0..).zip(pages.iter_mut()) {
            let taken = entry
                .page(words, n)
                .ok_or(Error::Invalid)
                .and_then(|va| lender.take(va));
            let Ok(at) = taken else {
                pages.iter().take(n as usize).for_each(|page| lender.put(page.at));
                lender.put(meta);
                return Err(Error::Invalid);
            };
            *page = BufferPage {
                at,
                // The reader has page 0, so that the ring begins with page 1.
                place: n.wrapping_add(1),
                bytes: 0,
                records: 0,
            };
        }
        let mut ring = Self {
            pages,
            meta,
            on: false,
            reader: 0,
            head: 0,
            tail: Some(0),
            last: 0,
            blank: 0,
            entries: 0,
            overrun: 0,
            overrun_at_swap: 0,
            pages_lost: 0,
            pages_touched: 0,
        };
        for offset in (0..meta::SIZE).step_by(8) {
            shared.write(meta, offset, 0);
        }
        shared.write(meta, meta::PAGE_SIZE, PAGE_SIZE);
        shared.write(meta, meta::SUBBUFS, u64::from(entry.pages) << 32);
        ring.reset(shared);
        Ok(ring)
    }

    /// Gives the pages back to the host.
    pub fn unload(self, lender: &mut impl Lender) {
        lender.put(self.meta);
        self.pages.iter().for_each(|page| lender.put(page.at));
    }

    /// Starts or stops writing.
    pub fn set_on(&mut self, on: bool) {
        self.on = on;
    }

    /// Places in the ring: the pages but the reader's.
    fn places(&self) -> u32 {
        (self.pages.len() as u32).saturating_sub(1)
    }

    fn after(&self, place: u32) -> u32 {
        let next = place.wrapping_add(1);
        if next >= self.places() { 0 } else { next }
    }

    /// The number of the page in a place.
    fn at(&self, place: u32) -> u32 {
        self.pages.get(place as usize).map_or(0, |page| page.place)
    }

    /// Empties a page. EL1 looks for the oldest page by the time stamps, going on as long as they fall. So an empty page
    /// has a time after all records, and an earlier one than the empty page before it.
    fn blank(&mut self, number: u32, shared: &impl SharedPages) {
        self.blank = self.blank.wrapping_sub(1);
        let stamp = self.blank;
        if let Some(page) = self.pages.get_mut(number as usize) {
            page.bytes = 0;
            page.records = 0;
            shared.write(page.at, data::TIME_STAMP, stamp);
            shared.publish(page.at, data::COMMIT, 0);
        }
    }

    /// Forgets all records. The reader's page stays which it is.
    pub fn reset(&mut self, shared: &impl SharedPages) {
        self.tail = Some(self.head);
        self.last = 0;
        self.blank = 0;
        let mut place = self.head;
        for _ in 0..self.places() {
            self.blank(self.at(place), shared);
            place = self.after(place);
        }
        self.blank(self.reader, shared);
        self.entries = 0;
        self.overrun = 0;
        self.overrun_at_swap = 0;
        self.pages_lost = 0;
        self.pages_touched = 0;
        shared.write(self.meta, meta::READER_LOST, 0);
        shared.write(self.meta, meta::READER, u64::from(self.reader));
        shared.write(self.meta, meta::OVERRUN, 0);
        shared.write(self.meta, meta::PAGES_LOST, 0);
        shared.write(self.meta, meta::PAGES_TOUCHED, 0);
        shared.publish(self.meta, meta::ENTRIES, 0);
    }

    /// Gives the reader the oldest page. [`Error::Busy`] where the ring is empty: the reader has the tail's page already.
    pub fn swap_reader(&mut self, shared: &impl SharedPages) -> Result<()> {
        let Some(tail) = self.tail else {
            return Err(Error::Busy);
        };
        let head = self.head;
        let oldest = self.at(head);
        let read = replace(&mut self.reader, oldest);
        if let Some(page) = self.pages.get_mut(head as usize) {
            page.place = read;
        }
        self.blank(read, shared);
        if tail == head {
            self.tail = None;
        }
        self.head = self.after(head);
        let lost = self.overrun.wrapping_sub(self.overrun_at_swap);
        self.overrun_at_swap = self.overrun;
        shared.write(self.meta, meta::READER_LOST, lost);
        shared.publish(self.meta, meta::READER, u64::from(self.reader));
        Ok(())
    }

    /// Goes on to the next page, and loses the oldest one where that is it. Yields the page's number.
    fn move_tail(&mut self, shared: &impl SharedPages) -> u32 {
        let place = match self.tail {
            None => self.head,
            Some(tail) => {
                let next = self.after(tail);
                if next == self.head {
                    let number = self.at(next);
                    let lost = self.pages.get(number as usize).map_or(0, |page| page.records);
                    self.overrun = self.overrun.wrapping_add(u64::from(lost));
                    self.pages_lost = self.pages_lost.wrapping_add(1);
                    shared.write(self.meta, meta::OVERRUN, self.overrun);
                    shared.write(self.meta, meta::PAGES_LOST, self.pages_lost);
                    self.head = self.after(next);
                }
                next
            }
        };
        self.tail = Some(place);
        let number = self.at(place);
        if let Some(page) = self.pages.get_mut(number as usize) {
            page.bytes = 0;
            page.records = 0;
            shared.publish(page.at, data::COMMIT, 0);
        }
        self.pages_touched = self.pages_touched.wrapping_add(1);
        shared.write(self.meta, meta::PAGES_TOUCHED, self.pages_touched);
        number
    }

    /// Writes a record with the time `now`, if the ring is on. Without a time it gets the last record's. Times in a ring
    /// never fall: a clock that was set back stands still meanwhile.
    pub fn write(&mut self, record: Record, now: Option<u64>, shared: &impl SharedPages) {
        if !self.on {
            return;
        }
        let now = now.unwrap_or(self.last).max(self.last);
        let elapsed = now.wrapping_sub(self.last);
        let size = HEADER.wrapping_add(record.bytes());
        let mut number = match self.tail {
            Some(tail) => self.at(tail),
            None => self.reader,
        };
        let used = self.pages.get(number as usize).map_or(0, |page| page.bytes);
        let extended = elapsed >> TIME_SHIFT != 0;
        let needed = if extended {
            size.wrapping_add(TIME_EXTEND_BYTES)
        } else {
            size
        };
        if used.wrapping_add(needed) > ROOM {
            number = self.move_tail(shared);
        }
        let Some(page) = self.pages.get_mut(number as usize) else {
            return;
        };
        let mut offset = data::RECORDS.wrapping_add(u64::from(page.bytes));
        let mut put = |word| {
            shared.write(page.at, offset, word);
            offset = offset.wrapping_add(8);
        };
        let mut delta = elapsed;
        if page.records == 0 {
            // The page's own time stamp is that of its first record.
            shared.write(page.at, data::TIME_STAMP, now);
            delta = 0;
        } else if extended {
            put(header(TIME_EXTEND, delta, (delta >> TIME_SHIFT) as u32));
            page.bytes = page.bytes.wrapping_add(TIME_EXTEND_BYTES);
            delta = 0;
        }
        // The length counts itself. Type 0 says that it is there.
        put(header(0, delta, record.bytes().wrapping_add(4)));
        put(record.first);
        if let Some(second) = record.second {
            put(second);
        }
        page.bytes = page.bytes.wrapping_add(size);
        page.records = page.records.wrapping_add(1);
        shared.publish(page.at, data::COMMIT, u64::from(page.bytes));
        self.last = now;
        self.entries = self.entries.wrapping_add(1);
        shared.publish(self.meta, meta::ENTRIES, self.entries);
    }
}

/// A record's first word: type and time in the low half, the first word of its data in the high half.
const fn header(kind: u64, time: u64, word: u32) -> u64 {
    (time & ((1 << TIME_SHIFT) - 1)) << TYPE_BITS | kind | (word as u64) << 32
}
