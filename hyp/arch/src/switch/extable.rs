// SPDX-License-Identifier: GPL-2.0-only
//! Exceptions that EL2 takes on purpose while a guest's vectors are in place: each instruction that may take one has a
//! record of where to go on. Does the job of `__kvm_unexpected_el2_exception()`.

/// Where to go on after an exception at `fault`, by the `records`: pairs of signed distances from each word's own
/// address, to the instruction and to its fixup. `base` is the address of the first record.
pub fn fixup(records: &[[i32; 2]], base: u64, fault: u64) -> Option<u64> {
    let at = |word: u64, distance: i32| word.wrapping_add_signed(distance.into());
    let mut address = base;
    for [instruction, target] in records {
        if at(address, *instruction) == fault {
            return Some(at(address.wrapping_add(4), *target));
        }
        address = address.wrapping_add(8);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_of_the_instruction_gives_its_fixup() {
        // Records at 0x1000 and 0x1008: instructions 0x800 and 0x900, fixups 0x840 and 0x2000.
        let records = [[-0x800, 0x840 - 0x1004], [0x900 - 0x1008, 0x2000 - 0x100c]];
        assert_eq!(fixup(&records, 0x1000, 0x800), Some(0x840));
        assert_eq!(fixup(&records, 0x1000, 0x900), Some(0x2000));
        assert_eq!(fixup(&records, 0x1000, 0x904), None);
        assert_eq!(fixup(&[], 0x1000, 0x900), None);
    }
}
