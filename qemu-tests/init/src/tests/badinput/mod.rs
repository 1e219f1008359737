// SPDX-License-Identifier: GPL-2.0-only
//! The bad-input list: every hypercall with each argument out of range. Each must return the error that the
//! specification gives for the first check that fails, touch no other register, change nothing, and never end the
//! machine. What could end it on the C object is in the judgements, with a boot of its own.
//!
//! One test is one file here, and each ends with a pVM's whole life, so that a list which broke something is found out.

mod calls;
mod memory;
mod smc;
mod trace;
mod vcpu;
mod vm;

use super::Outcome;
use crate::hostile::facts::Map;
use crate::hostile::{FakeVm, Hostile, Kind, Reply, errno};
use crate::ktap::{Sub, note};

/// What the list's parts share.
pub struct Bench {
    /// The device.
    pub h: Hostile,
    /// Where memory of each class is.
    pub map: Map,
    page: u64,
    is_c: bool,
    good: u32,
    bad: Vec<String>,
}

/// What a call must come back with.
#[derive(Clone, Copy)]
pub enum Want {
    /// Offered, and this result.
    Result(i64),
    /// Offered, and any of these.
    OneOf(&'static [i64]),
    /// Offered, any result but a panic.
    Any,
    /// Offered, no result: x1 is as it was.
    Void,
    /// Not offered at all: x0 = -1 and nothing else.
    NotSupported,
}

impl Want {
    fn met(self, reply: &Reply, x1: u64) -> bool {
        if reply.clobbered.is_some() {
            return false;
        }
        match self {
            Self::Result(value) => (reply.x0(), reply.x1()) == (0, value),
            Self::OneOf(values) => reply.x0() == 0 && values.contains(&reply.x1()),
            Self::Any => reply.x0() == 0,
            Self::Void => reply.x0() == 0 && reply.regs[1] == x1,
            Self::NotSupported => reply.x0() == -1 && reply.regs[1] == x1,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Result(value) => name(value),
            Self::OneOf(values) => values.iter().map(|v| name(*v)).collect::<Vec<_>>().join(" or "),
            Self::Any => "any result".to_owned(),
            Self::Void => "nothing changed".to_owned(),
            Self::NotSupported => "NOT_SUPPORTED".to_owned(),
        }
    }
}

fn name(value: i64) -> String {
    errno::name(value).map_or_else(|| value.to_string(), str::to_owned)
}

impl Bench {
    /// Opens the device on a CPU of its own.
    fn open() -> Result<Self, String> {
        super::pin_to_cpu(1)?;
        let h = Hostile::open().map_err(|e| format!("/dev/hostile: {e}"))?;
        let map = Map::read(&h)?;
        Ok(Self {
            page: h.fact("page_size"),
            is_c: crate::system::cmdline_has("hyp=c"),
            h,
            map,
            good: 0,
            bad: Vec::new(),
        })
    }

    /// Issues a call and judges what comes back.
    pub fn check(&mut self, call: &str, what: &str, args: &[u64], want: Want) -> Result<Reply, String> {
        self.check_unless_c(call, what, args, want, None)
    }

    /// The same, where the C object is known to answer otherwise.
    pub fn check_unless_c(
        &mut self,
        call: &str,
        what: &str,
        args: &[u64],
        want: Want,
        c: Option<Want>,
    ) -> Result<Reply, String> {
        let reply = self.h.call(call, args).map_err(|e| format!("{call}: {e}"))?;
        let x1 = args.first().copied().unwrap_or(0);
        self.judge(
            &format!("{} {what}", call.trim_start_matches('_')),
            &reply,
            x1,
            want,
            c,
        );
        Ok(reply)
    }

    fn judge(&mut self, what: &str, reply: &Reply, x1: u64, want: Want, c: Option<Want>) {
        if want.met(reply, x1) {
            self.good += 1;
        } else if let Some(known) = c.filter(|c| self.is_c && c.met(reply, x1)) {
            self.good += 1;
            println!("# {what}: {} on the C object, not {}", known.text(), want.text());
        } else {
            self.bad.push(format!("{what}: {reply}, not {}", want.text()));
        }
    }

    /// Judges anything else.
    pub fn expect(&mut self, what: &str, good: bool) {
        if good {
            self.good += 1;
        } else {
            self.bad.push(what.to_owned());
        }
    }

    /// A fresh page: its page number.
    pub fn fresh(&self) -> Result<u64, String> {
        Ok(self.h.alloc(self.page).map_err(|e| e.to_string())?.1 / self.page)
    }

    /// The page is the host's, and shared with nobody: EL2 takes a share of it, and gives it up again.
    pub fn owned(&mut self, what: &str, pfn: u64) -> Result<(), String> {
        let va = self.h.va_of(pfn * self.page).map_err(|e| e.to_string())?;
        let readable = self.h.peek64(va).is_ok();
        let share = self
            .h
            .call("__pkvm_host_share_hyp", &[pfn])
            .map_err(|e| e.to_string())?;
        let unshare = self
            .h
            .call("__pkvm_host_unshare_hyp", &[pfn])
            .map_err(|e| e.to_string())?;
        let good = readable && share.ok("").is_ok() && unshare.ok("").is_ok();
        self.expect(
            &format!("{what}: the page is not as before (share {share}, unshare {unshare})"),
            good,
        );
        Ok(())
    }

    /// Page numbers that no call may take, with what is wrong with each, and what the ownership calls say of it.
    pub fn bad_pfns(&self) -> Vec<(String, u64, Want, Option<Want>)> {
        let page = self.page;
        let perm = Want::Result(errno::EPERM);
        let mut all = vec![
            ("pfn 0".to_owned(), 0, perm, None),
            ("a device's pfn".to_owned(), self.map.mmio / page, perm, None),
            (
                "a pfn of EL2's memory".to_owned(),
                self.map.hyp / page,
                perm,
                None,
            ),
            (
                "a pfn of EL2's text".to_owned(),
                self.map.hyp_text / page,
                perm,
                None,
            ),
            (
                "the pfn after memory".to_owned(),
                self.map.memory_end / page,
                perm,
                None,
            ),
        ];
        if let Some(at) = self.map.kept_out {
            all.push(("a no-map pfn".to_owned(), at / page, perm, None));
        }
        // Beyond what an address can hold. C shifts the bits away; what it makes of the rest may be any refusal.
        let refusal = Want::OneOf(&[errno::EPERM, errno::EINVAL]);
        for pfn in [1 << 51, 1 << 52, 1 << 63, u64::MAX, u64::MAX >> 12] {
            all.push((format!("pfn {pfn:#x}"), pfn, refusal, None));
        }
        all
    }

    fn finish(mut self, sub: &mut Sub) {
        let life = self.life();
        note(&format!("{} answers as they must be", self.good));
        for bad in &self.bad {
            note(bad);
        }
        let count = self.bad.len();
        sub.result(
            "answers",
            if count == 0 {
                Ok(())
            } else {
                Err(format!("{count} wrong answers"))
            },
        );
        sub.result("a pVM lives and dies afterwards", life);
    }

    /// A pVM from its making to its end, by hypercalls.
    fn life(&mut self) -> Result<(), String> {
        for kind in [Kind::Protected, Kind::Normal] {
            let vm = FakeVm::new(&self.h, kind)?;
            vm.load(0)?;
            let pa = match kind {
                Kind::Protected => vm.donate(0x40)?,
                Kind::Normal => vm.share(0x40)?,
            };
            // The guest's first instruction is at 0, where it has no memory.
            let reply = vm.run(0)?;
            if reply.x0() != 0 || !matches!(reply.x1(), 0 | 2) {
                return Err(format!("vcpu_run: {reply}"));
            }
            vm.put()?;
            let va = self.h.va_of(pa).map_err(|e| e.to_string())?;
            if self.h.peek64(va).is_ok() != (kind == Kind::Normal) {
                return Err(format!("{kind:?}: the guest's page is not where it belongs"));
            }
            vm.destroy(&[0x40], kind)?;
            match self.h.peek64(va) {
                Ok(0) => {}
                other => return Err(format!("{kind:?}: the page came back as {other:?}")),
            }
        }
        Ok(())
    }
}

type Part = fn(&mut Bench) -> Result<(), String>;

const PARTS: &[(&str, Part)] = &[
    ("numbers", calls::numbers),
    ("immediates", calls::immediates),
    ("tracing", calls::tracing),
    ("host-pages", memory::host_pages),
    ("guest-pages", memory::guest_pages),
    ("normal-pages", memory::normal_pages),
    ("reclaim", memory::reclaim),
    ("handles", vm::handles),
    ("init-vm", vm::init_vm),
    ("init-vcpu", vm::init_vcpu),
    ("teardown", vm::teardown),
    ("vcpu", vcpu::vcpu),
    ("smc", smc::smc),
    ("trace-load", trace::load),
    ("trace-many", trace::many),
];

/// Runs the part that the first word names.
pub fn run(sub: &mut Sub, words: &[String]) -> Outcome {
    let name = words.first().ok_or_else(|| "no part named".to_owned())?;
    let (_, part) = PARTS
        .iter()
        .find(|(n, _)| n == name)
        .ok_or_else(|| format!("no part {name}"))?;
    let mut bench = Bench::open()?;
    if let Err(why) = part(&mut bench) {
        bench.bad.push(why);
    }
    bench.finish(sub);
    Ok(())
}
