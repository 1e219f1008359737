// SPDX-License-Identifier: GPL-2.0-only
extern crate std;

use super::*;
use proptest::prelude::*;
use std::boxed::Box;
use std::cell::Cell;
use std::vec::Vec;
use std::{vec, vec::IntoIter};

/// A VM that is nothing but what the table asks of it.
#[derive(Debug)]
struct Toy {
    kind: VmKind,
    vcpus: Vec<Cell<Option<u32>>>,
    loaded: Vec<Cell<Option<CpuId>>>,
}
type Vm = &'static Toy;

fn toy(kind: VmKind, nr_vcpus: usize) -> Vm {
    Box::leak(Box::new(Toy {
        kind,
        vcpus: vec![Cell::new(None); nr_vcpus],
        loaded: vec![Cell::new(None); nr_vcpus],
    }))
}

impl VmRef for Vm {
    type Vcpu = u32;
    fn kind(self) -> VmKind {
        self.kind
    }
    fn nr_vcpus(self) -> u32 {
        self.vcpus.len() as u32
    }
    fn vcpu(self, index: u32) -> Option<u32> {
        self.vcpus.get(index as usize)?.get()
    }
    fn publish_vcpu(self, index: u32, vcpu: u32) {
        self.vcpus[index as usize].set(Some(vcpu));
    }
    fn loaded_on(self, vcpu: u32) -> Option<CpuId> {
        self.loaded[vcpu as usize].get()
    }
    fn set_loaded_on(self, vcpu: u32, cpu: Option<CpuId>) {
        self.loaded[vcpu as usize].set(cpu);
    }
}

const CPUS: usize = 3;
const VCPUS: usize = 2;

/// What the table should be, kept as plainly as can be: references are not counted but listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Reserved,
    Live,
    Dying,
}

#[derive(Clone, Debug)]
enum Op {
    Reserve,
    Unreserve(u16),
    Insert(u16, bool),
    Get(u16),
    GetLive(u16),
    GetNormal(u16),
    GetDying(u16),
    Put(usize),
    Register(usize, u32),
    Load(usize, u16, u32),
    Unload(usize),
    StartTeardown(u16),
    Retire(u16, bool),
}

fn handle() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 0x1000_u16..0x1003, 1 => Just(0x10fe), 1 => any::<u16>()]
}

fn op() -> impl Strategy<Value = Op> {
    let index = || prop_oneof![6 => 0..VCPUS as u32, 1 => any::<u32>()];
    prop_oneof![
        2 => Just(Op::Reserve),
        1 => handle().prop_map(Op::Unreserve),
        3 => (handle(), any::<bool>()).prop_map(|(h, p)| Op::Insert(h, p)),
        1 => handle().prop_map(Op::Get),
        3 => handle().prop_map(Op::GetLive),
        1 => handle().prop_map(Op::GetNormal),
        1 => handle().prop_map(Op::GetDying),
        4 => any::<usize>().prop_map(Op::Put),
        4 => (any::<usize>(), index()).prop_map(|(n, i)| Op::Register(n, i)),
        5 => (0..CPUS, handle(), index()).prop_map(|(c, h, i)| Op::Load(c, h, i)),
        4 => (0..CPUS).prop_map(Op::Unload),
        2 => handle().prop_map(Op::StartTeardown),
        2 => (handle(), any::<bool>()).prop_map(|(h, ok)| Op::Retire(h, ok)),
    ]
}

struct Model {
    slots: Vec<(State, Option<Vm>)>,
    held: Vec<HeldVm<Vm>>,
    loads: [Option<(usize, u32)>; CPUS],
    /// By CPU and slot: the vCPU that ran last.
    last: Vec<Vec<Option<u32>>>,
}

impl Model {
    fn new() -> Self {
        Self {
            slots: vec![(State::Free, None); MAX_VMS],
            held: Vec::new(),
            loads: [None; CPUS],
            last: vec![vec![None; MAX_VMS]; CPUS],
        }
    }
    fn index(handle: u16) -> Option<usize> {
        (0x1000..0x1000 + MAX_VMS as u16)
            .contains(&handle)
            .then(|| usize::from(handle - 0x1000))
    }
    fn state(&self, handle: u16) -> State {
        Self::index(handle).map_or(State::Free, |index| self.slots[index].0)
    }
    fn vm(&self, handle: u16) -> Option<Vm> {
        Self::index(handle).and_then(|index| self.slots[index].1)
    }
    fn referred_to(&self, handle: u16) -> bool {
        self.held.iter().any(|held| held.handle().raw() == handle)
            || self
                .loads
                .iter()
                .flatten()
                .any(|load| Some(load.0) == Self::index(handle))
    }
    fn set(&mut self, handle: u16, state: State, vm: Option<Vm>) {
        self.slots[Self::index(handle).unwrap()] = (state, vm);
    }

    fn keep(&mut self, got: Result<HeldVm<Vm>>, expected: Result<Vm>) {
        match (got, expected) {
            (Ok(held), Ok(vm)) => {
                assert!(core::ptr::eq(held.vm(), vm));
                self.held.push(held);
            }
            (got, expected) => assert_eq!(got.map(|_| ()), expected.map(|_| ())),
        }
    }
}

fn step(table: &mut VmTable<Vm>, cpus: &mut [CpuState<Vm>], model: &mut Model, op: Op) {
    let gone = |absent| {
        move |(state, vm): (State, Option<Vm>)| match state {
            State::Live | State::Dying => vm.ok_or(absent),
            _ => Err(absent),
        }
    };
    match op {
        Op::Reserve => {
            let free = model.slots.iter().position(|slot| slot.0 == State::Free);
            let got = table.reserve();
            assert_eq!(got.map(Handle::index), free.ok_or(Error::NoMemory));
            model.set(got.unwrap().raw(), State::Reserved, None);
        }
        Op::Unreserve(h) => {
            table.unreserve(h);
            if model.state(h) == State::Reserved {
                model.set(h, State::Free, None);
            }
        }
        Op::Insert(h, protected) => {
            let vm = toy(
                if protected {
                    VmKind::Protected
                } else {
                    VmKind::Normal
                },
                VCPUS,
            );
            let reserved = model.state(h) == State::Reserved;
            assert_eq!(table.check_reserved(h).is_ok(), reserved);
            assert_eq!(
                table.insert(h, vm).map(Handle::raw),
                if reserved { Ok(h) } else { Err(Error::Invalid) }
            );
            if reserved {
                model.set(h, State::Live, Some(vm));
            }
        }
        Op::Get(h) => {
            let expected = gone(Error::NotFound)((model.state(h), model.vm(h)));
            model.keep(table.get(h), expected);
        }
        Op::GetLive(h) => {
            let expected = model
                .vm(h)
                .filter(|_| model.state(h) == State::Live)
                .ok_or(Error::NotFound);
            model.keep(table.get_live(h), expected);
        }
        Op::GetNormal(h) => {
            let expected = gone(Error::Invalid)((model.state(h), model.vm(h))).and_then(|vm| {
                if vm.kind == VmKind::Normal {
                    Ok(vm)
                } else {
                    Err(Error::Invalid)
                }
            });
            model.keep(table.get_normal(h), expected);
        }
        Op::GetDying(h) => {
            let expected = model
                .vm(h)
                .filter(|_| model.state(h) == State::Dying)
                .ok_or(Error::Invalid);
            model.keep(table.get_dying(h), expected);
        }
        Op::Put(n) => {
            if !model.held.is_empty() {
                let held = model.held.swap_remove(n % model.held.len());
                table.put(held);
            }
        }
        Op::Register(n, index) => {
            if model.held.is_empty() {
                return;
            }
            let held = &model.held[n % model.held.len()];
            let expected = if model.state(held.handle().raw()) != State::Live {
                Err(Error::NotFound)
            } else if index as usize >= VCPUS || held.vm().vcpu(index).is_some() {
                Err(Error::Invalid)
            } else {
                Ok(())
            };
            assert_eq!(table.register_vcpu(held, index, index), expected);
        }
        Op::Load(cpu, h, index) => {
            let fits = model.loads[cpu].is_none()
                && model.state(h) == State::Live
                && model.vm(h).unwrap().vcpu(index).is_some()
                && !model.loads.contains(&Some((Model::index(h).unwrap(), index)));
            let mut flushed = None;
            let got = table.load(&mut cpus[cpu], h, index, |vm| flushed = Some(vm));
            assert_eq!(got.is_some(), fits);
            if let Some(loaded) = got {
                let slot = loaded.handle.index();
                assert_eq!(
                    (loaded.handle.raw(), loaded.index, loaded.vcpu),
                    (h, index, index)
                );
                let last = model.last[cpu][slot].replace(index);
                // A flush too many is allowed, one too few is not.
                assert!(flushed.is_some() || last.is_none_or(|last| last == index));
                assert!(flushed.is_none() || last != Some(index), "needless flush");
                assert!(
                    flushed.is_none_or(|vm| core::ptr::eq(vm, loaded.vm)),
                    "another VM's"
                );
                model.loads[cpu] = Some((slot, index));
            } else {
                assert!(flushed.is_none(), "a load that failed did something");
            }
        }
        Op::Unload(cpu) => {
            let got = table
                .unload(&mut cpus[cpu])
                .map(|loaded| (loaded.handle.index(), loaded.index));
            assert_eq!(got, model.loads[cpu].take());
        }
        Op::StartTeardown(h) => {
            let fits = model.state(h) == State::Live && !model.referred_to(h);
            assert_eq!(
                table.start_teardown(h),
                if fits { Ok(()) } else { Err(Error::Invalid) }
            );
            if fits {
                model.set(h, State::Dying, model.vm(h));
            }
        }
        Op::Retire(h, clean) => {
            let fits = model.state(h) == State::Dying && !model.referred_to(h);
            let mut asked = false;
            let got = table.retire(h, |_| {
                asked = true;
                if clean { Ok(()) } else { Err(Error::Busy) }
            });
            assert_eq!(asked, fits);
            let expected = match (fits, clean) {
                (false, _) => Err(Error::Invalid),
                (true, false) => Err(Error::Busy),
                (true, true) => Ok(()),
            };
            assert_eq!(got.map(|_| ()), expected);
            if expected.is_ok() {
                model.set(h, State::Free, None);
            }
        }
    }
    for (cpu, load) in cpus.iter().zip(&model.loads) {
        assert_eq!(
            cpu.loaded().map(|loaded| (loaded.handle.index(), loaded.index)),
            *load
        );
    }
}

fn run(ops: IntoIter<Op>) {
    let mut table = VmTable::new();
    table.open();
    let mut cpus: Vec<_> = (0..CPUS as u32).map(|cpu| CpuState::new(CpuId(cpu))).collect();
    let mut model = Model::new();
    for op in ops {
        step(&mut table, &mut cpus, &mut model, op);
    }
    // However it went, everything can be unwound and every slot used again.
    for cpu in &mut cpus {
        table.unload(cpu);
    }
    for held in model.held.drain(..) {
        table.put(held);
    }
    for handle in 0x1000..0x1000 + MAX_VMS as u16 {
        table.unreserve(handle);
        let _ = table.start_teardown(handle);
        let _ = table.retire(handle, |_| Ok(()));
    }
    for index in 0..MAX_VMS {
        assert_eq!(table.reserve().map(Handle::index), Ok(index));
    }
    assert_eq!(table.reserve(), Err(Error::NoMemory));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn behaves_as_the_model(ops in proptest::collection::vec(op(), 0..200)) {
        run(ops.into_iter());
    }
}

#[test]
fn nothing_can_be_reserved_before_the_table_opens() {
    let mut table = VmTable::<Vm>::new();
    assert_eq!(table.reserve(), Err(Error::Invalid));
    assert!(table.insert(0x1000, toy(VmKind::Normal, 1)).is_err());
    assert!(table.get(0x1000).is_err());
    table.unreserve(0x1000);
    assert_eq!(table.start_teardown(0x1000), Err(Error::Invalid));
}

#[test]
fn siblings_that_alternate_on_a_cpu_flush_and_one_that_stays_does_not() {
    let (mut table, mut cpu) = (VmTable::new(), CpuState::new(CpuId(0)));
    table.open();
    let handle = table.reserve().unwrap().raw();
    table.insert(handle, toy(VmKind::Protected, 2)).unwrap();
    let held = table.get_live(handle).unwrap();
    for index in 0..2 {
        table.register_vcpu(&held, index, index).unwrap();
    }
    table.put(held);
    let mut run = |index| {
        let mut flushed = false;
        table.load(&mut cpu, handle, index, |_| flushed = true).unwrap();
        table.unload(&mut cpu);
        flushed
    };
    assert_eq!([0, 0, 1, 1, 0].map(&mut run), [false, false, true, false, true]);
}

#[test]
fn indices_too_large_for_the_note_always_flush() {
    let mut cpu = CpuState::<Vm>::new(CpuId(0));
    let handle = Handle::from_index(0).unwrap();
    cpu.note_run(handle, 1);
    for index in [u32::from(u16::MAX), u32::MAX, u32::from(u16::MAX), u32::MAX, 0] {
        assert_eq!(cpu.note_run(handle, index), LocalTlb::Flush);
    }
}

#[test]
fn a_loaded_vcpu_is_found_by_its_kind_only() {
    let (mut table, mut cpu) = (VmTable::new(), CpuState::new(CpuId(0)));
    table.open();
    let handle = table.reserve().unwrap().raw();
    table.insert(handle, toy(VmKind::Normal, 1)).unwrap();
    let held = table.get_live(handle).unwrap();
    table.register_vcpu(&held, 0, 0).unwrap();
    assert!(cpu.loaded_of(VmKind::Normal).is_err());
    table.load(&mut cpu, handle, 0, |_| ()).unwrap();
    assert!(cpu.loaded_of(VmKind::Normal).is_ok());
    assert_eq!(cpu.loaded_of(VmKind::Protected).map(|_| ()), Err(Error::Invalid));
    table.put(held);
}
