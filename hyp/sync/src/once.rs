// SPDX-License-Identifier: GPL-2.0-only
//! A cell that boot fills and that nobody changes afterwards.

/// A value that is set at most once and read without a lock.
pub struct Once<T>(spin::Once<T>);

impl<T> Once<T> {
    /// An empty cell.
    pub const fn new() -> Self {
        Self(spin::Once::new())
    }

    /// Fills the cell. Where it is full already, gives `value` back and changes nothing.
    pub fn set(&self, value: T) -> Result<(), T> {
        let mut slot = Some(value);
        // The closure runs on at most one CPU over the life of the cell, and then it finds the slot full.
        let _ = self.0.try_call_once(|| slot.take().ok_or(()));
        match slot {
            None => Ok(()),
            Some(value) => Err(value),
        }
    }

    /// The value, once it is set. What was written before `set` is visible to whoever sees the value.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        self.0.get()
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_stays() {
        let cell = Once::new();
        assert_eq!(cell.get(), None);
        assert_eq!(cell.set(1), Ok(()));
        assert_eq!(cell.set(2), Err(2));
        assert_eq!(cell.get(), Some(&1));
    }

    #[test]
    fn one_of_many_setters_wins() {
        let cell = Once::new();
        let wins = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|n| {
                    scope.spawn({
                        let cell = &cell;
                        move || cell.set(n).is_ok()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap())
                .filter(|won| *won)
                .count()
        });
        assert_eq!(wins, 1);
        assert!(cell.get().is_some());
    }
}
