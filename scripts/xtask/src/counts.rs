// SPDX-License-Identifier: GPL-2.0-only
//! How many tests passed, failed and were skipped: counted, added, and read from what a program says at its end.

use crate::ui;
use std::ops::AddAssign;

/// Numbers of tests.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Those that passed.
    pub passed: u32,
    /// Those that failed.
    pub failed: u32,
    /// Those that could show nothing there.
    pub skipped: u32,
}

impl Counts {
    /// One that passed.
    pub const PASSED: Self = Self::of(1, 0);
    /// One that failed.
    pub const FAILED: Self = Self::of(0, 1);
    /// One that was skipped.
    pub const SKIPPED: Self = Self {
        skipped: 1,
        ..Self::of(0, 0)
    };

    /// None of them skipped.
    pub const fn of(passed: u32, failed: u32) -> Self {
        Self {
            passed,
            failed,
            skipped: 0,
        }
    }

    /// Reads the last two lines: `N skipped`, where any is, and `N passed, N failed`.
    pub fn read(before: &str, last: &str) -> Option<Self> {
        let (passed, failed) = last.split_once(" passed, ")?;
        Some(Self {
            passed: passed.parse().ok()?,
            failed: failed.strip_suffix(" failed")?.parse().ok()?,
            skipped: before
                .strip_suffix(" skipped")
                .and_then(|n| n.parse().ok())
                .unwrap_or(0),
        })
    }

    /// Says them in the same lines; true when none failed.
    pub fn close(self) -> bool {
        if self.skipped > 0 {
            ui::say(&format!("{} skipped", self.skipped));
        }
        ui::say(&format!("{} passed, {} failed", self.passed, self.failed));
        self.failed == 0
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn the_closing_lines_are_read() {
        assert_eq!(
            Counts::read("ok 1 a", "12 passed, 3 failed"),
            Some(Counts::of(12, 3))
        );
        let skipped = Counts {
            skipped: 2,
            ..Counts::of(1, 0)
        };
        assert_eq!(Counts::read("2 skipped", "1 passed, 0 failed"), Some(skipped));
        assert_eq!(Counts::read("", "ok 1 a"), None);
    }
}
