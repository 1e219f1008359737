// SPDX-License-Identifier: GPL-2.0-only
//! The one lock type of EL2.

use crate::{Before, Held, Level};
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use spin::mutex::{TicketMutex, TicketMutexGuard};

/// A fair lock around `T`, at level `L` of the lock order.
///
/// Taking it needs the token of an outer level, and while it is held that token is borrowed:
///
/// ```
/// use pkvm_sync::{Held, HostMmu, Lock, Pool};
/// static HOST: Lock<u32, HostMmu> = Lock::new(1);
/// static POOL: Lock<u32, Pool> = Lock::new(2);
/// let mut root = Held::at_trap_entry();
/// let mut host = HOST.lock(&mut root);
/// let (pages, held) = host.parts();
/// *pages += *POOL.lock(held);
/// assert_eq!(*host, 3);
/// ```
///
/// The wrong order does not compile:
///
/// ```compile_fail,E0277
/// use pkvm_sync::{Held, HostMmu, Lock, Pool};
/// static HOST: Lock<u32, HostMmu> = Lock::new(1);
/// static POOL: Lock<u32, Pool> = Lock::new(2);
/// let mut root = Held::at_trap_entry();
/// let mut pool = POOL.lock(&mut root);
/// let (_, held) = pool.parts();
/// HOST.lock(held);
/// ```
///
/// Neither do two locks of one level, even two different ones:
///
/// ```compile_fail,E0277
/// use pkvm_sync::{Held, Lock, VmMmu};
/// static ONE: Lock<u32, VmMmu> = Lock::new(1);
/// static TWO: Lock<u32, VmMmu> = Lock::new(2);
/// let mut root = Held::at_trap_entry();
/// let mut one = ONE.lock(&mut root);
/// let (_, held) = one.parts();
/// TWO.lock(held);
/// ```
///
/// Nor can the outer token be used past the lock that borrowed it:
///
/// ```compile_fail,E0499
/// use pkvm_sync::{Held, HostMmu, Lock};
/// static HOST: Lock<u32, HostMmu> = Lock::new(1);
/// let mut root = Held::at_trap_entry();
/// let first = HOST.lock(&mut root);
/// let second = HOST.lock(&mut root);
/// drop((first, second));
/// ```
///
/// And no token leaves the CPU that made it:
///
/// ```compile_fail,E0277
/// fn sendable<T: Send>(_: T) {}
/// sendable(pkvm_sync::Held::at_trap_entry());
/// ```
pub struct Lock<T, L: Level> {
    inner: TicketMutex<T>,
    level: PhantomData<fn() -> L>,
}

impl<T, L: Level> Lock<T, L> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self {
            inner: TicketMutex::new(value),
            level: PhantomData,
        }
    }

    /// Waits for the lock. CPUs get it in the order in which they asked.
    pub fn lock<'a, O: Before<L>>(&'a self, outer: &'a mut Held<O>) -> Guard<'a, T, L> {
        // The borrow of `outer` lives in the guard's lifetime; its value carries no information.
        let _ = outer;
        Guard {
            inner: self.inner.lock(),
            held: Held::new(),
        }
    }

    /// The value, where the caller proves by the borrow that no other CPU can see the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

/// A lock that is held; it is released when this goes.
#[must_use]
pub struct Guard<'a, T, L: Level> {
    inner: TicketMutexGuard<'a, T>,
    held: Held<L>,
}

impl<T, L: Level> Guard<'_, T, L> {
    /// The value, and the token with which an inner lock can be taken meanwhile.
    pub fn parts(&mut self) -> (&mut T, &mut Held<L>) {
        (&mut self.inner, &mut self.held)
    }
}

impl<T, L: Level> Deref for Guard<'_, T, L> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T, L: Level> DerefMut for Guard<'_, T, L> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A lock that is the innermost one wherever it is taken, so that it needs no token. What runs under it takes no lock and
/// makes no call that might; the closure keeps it short.
pub struct Leaf<T>(TicketMutex<T>);

impl<T> Leaf<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(TicketMutex::new(value))
    }

    /// Waits for the lock and runs `f` under it. CPUs get it in the order in which they asked.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HostMmu, Pool, VmTable};

    #[test]
    fn a_leaf_is_taken_under_any_lock() {
        static LEAF: Leaf<u64> = Leaf::new(0);
        let table: Lock<(), VmTable> = Lock::new(());
        let mut root = Held::at_trap_entry();
        LEAF.with(|value| *value += 1);
        let _guard = table.lock(&mut root);
        assert_eq!(LEAF.with(|value| *value), 1);
    }

    #[test]
    fn writers_on_many_threads_do_not_lose_counts() {
        static OUTER: Lock<u64, HostMmu> = Lock::new(0);
        static INNER: Lock<u64, Pool> = Lock::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut root = Held::at_trap_entry();
                    for _ in 0..1000 {
                        let mut outer = OUTER.lock(&mut root);
                        let (value, held) = outer.parts();
                        *value += 1;
                        *INNER.lock(held) += 2;
                    }
                });
            }
        });
        let mut root = Held::at_trap_entry();
        assert_eq!(*OUTER.lock(&mut root), 4000);
        assert_eq!(*INNER.lock(&mut root), 8000);
    }

    #[test]
    fn levels_may_be_skipped() {
        let table: Lock<(), VmTable> = Lock::new(());
        let pool: Lock<u8, Pool> = Lock::new(7);
        let mut root = Held::at_trap_entry();
        let mut guard = table.lock(&mut root);
        assert_eq!(*pool.lock(guard.parts().1), 7);
    }
}
