// SPDX-License-Identifier: GPL-2.0-only
//! A VM made by hypercalls alone. Its host structures are copies of those of a VM that the kernel's KVM made and never
//! ran, so that whatever EL2 reads from them is sane until a test changes it.

use super::Hostile;
use kvm_ioctls::Kvm;
use std::os::fd::AsRawFd;

type Result<T> = std::result::Result<T, String>;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Whether EL2 is to keep the VM's memory from the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A pVM.
    Protected,
    /// A normal VM, whose pages the host shares.
    Normal,
}

/// What a VM needs of the host before `__pkvm_init_vm`.
pub struct Template {
    /// Bytes of a struct kvm.
    pub kvm: Vec<u8>,
    /// Bytes of its first struct kvm_vcpu.
    pub vcpu: Vec<u8>,
    /// The VTCR_EL2 that all VMs have.
    pub vtcr: u64,
}

impl Template {
    /// Copies a VM of the kernel.
    ///
    /// # Errors
    /// The call to KVM that failed.
    pub fn new(h: &Hostile) -> Result<Self> {
        let kvm = Kvm::new().map_err(text)?;
        let vm = kvm.create_vm().map_err(text)?;
        let vcpu = vm.create_vcpu(0).map_err(text)?;
        let mut init = kvm_bindings::kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init).map_err(text)?;
        init.features[0] |= 1 << kvm_bindings::KVM_ARM_VCPU_PSCI_0_2;
        vcpu.vcpu_init(&init).map_err(text)?;
        let kvm_at = h.kvm_of(vm.as_raw_fd()).map_err(text)?;
        let vcpu_at = h.kvm_of(vcpu.as_raw_fd()).map_err(text)?;
        Ok(Self {
            kvm: h.peek(kvm_at, h.fact("kvm.size") as usize).map_err(text)?,
            vcpu: h.peek(vcpu_at, h.fact("vcpu.size") as usize).map_err(text)?,
            vtcr: h.peek64(kvm_at + h.fact("kvm.vtcr")).map_err(text)?,
        })
    }

    /// Bits of an IPA, of guests and of the host.
    pub fn ipa_bits(&self) -> u64 {
        64 - (self.vtcr & 0x3f)
    }

    /// Pages of the concatenated first table, for 4 KiB pages: what the bits beyond those of a whole number of levels
    /// ask for.
    pub fn pgd_pages(&self) -> u64 {
        match self.ipa_bits() {
            40 => 2,
            32 => 4,
            42 => 8,
            52 => 16,
            _ => 1,
        }
    }
}

/// One vCPU of a [`FakeVm`].
pub struct FakeVcpu {
    /// Linear-map address of the host's structure.
    pub host: u64,
    /// The donated memory behind it.
    pub memory: u64,
}

/// A VM behind the kernel's back.
pub struct FakeVm<'a> {
    h: &'a Hostile,
    /// EL2's name for it.
    pub handle: u64,
    /// Linear-map address of the host's structure.
    pub host: u64,
    /// The donated memory for EL2's structure.
    pub memory: u64,
    /// The donated memory for its first-level table.
    pub pgd: u64,
    /// What it was copied from.
    pub template: Template,
    /// Its vCPUs.
    pub vcpus: Vec<FakeVcpu>,
}

impl<'a> FakeVm<'a> {
    /// Prepares the host's side, up to the handle: nothing is donated yet.
    pub fn prepare(h: &'a Hostile, kind: Kind, vcpus: u32) -> Result<Self> {
        let template = Template::new(h)?;
        let host = shared_copy(h, &template.kvm)?;
        let handle = h.call("__pkvm_reserve_vm", &[]).map_err(text)?;
        if handle.x0() != 0 || handle.x1() <= 0 {
            return Err(format!("reserve_vm: {handle}"));
        }
        let handle = handle.x1() as u64;
        let put = |name: &str, bytes: &[u8]| h.poke(host + h.fact(name), bytes).map_err(text);
        put("kvm.created_vcpus", &vcpus.to_le_bytes())?;
        put("kvm.handle", &(handle as u16).to_le_bytes())?;
        put("kvm.is_protected", &[u8::from(kind == Kind::Protected)])?;
        put("kvm.is_created", &[0])?;
        let (memory, _) = h
            .alloc(h.fact("hyp_vm.size") + 8 * u64::from(vcpus))
            .map_err(text)?;
        let (pgd, _) = h
            .alloc(template.pgd_pages() * h.fact("page_size"))
            .map_err(text)?;
        Ok(Self {
            h,
            handle,
            host,
            memory,
            pgd,
            template,
            vcpus: Vec::new(),
        })
    }

    /// A live VM with one vCPU, which is not loaded.
    pub fn new(h: &'a Hostile, kind: Kind) -> Result<Self> {
        let mut vm = Self::prepare(h, kind, 1)?;
        vm.init()?;
        vm.add_vcpu(0)?.ok("init_vcpu")?;
        Ok(vm)
    }

    /// `__pkvm_init_vm`.
    pub fn init(&self) -> Result<()> {
        self.try_init()?.ok("init_vm")
    }

    /// `__pkvm_init_vm`, whatever it says.
    pub fn try_init(&self) -> Result<super::Reply> {
        self.h
            .call("__pkvm_init_vm", &[self.host, self.memory, self.pgd])
            .map_err(text)
    }

    /// `__pkvm_init_vcpu` with index `idx`.
    pub fn add_vcpu(&mut self, idx: u32) -> Result<super::Reply> {
        let h = self.h;
        let host = shared_copy(h, &self.template.vcpu)?;
        h.poke(host + h.fact("vcpu.vcpu_idx"), &idx.to_le_bytes())
            .map_err(text)?;
        h.poke(host + h.fact("vcpu.vcpu_id"), &idx.to_le_bytes())
            .map_err(text)?;
        h.poke64(host + h.fact("vcpu.kvm"), self.host).map_err(text)?;
        let mc = host + h.fact("vcpu.memcache");
        h.poke64(mc + h.fact("mc.head"), 0).map_err(text)?;
        h.poke64(mc + h.fact("mc.nr_pages"), 0).map_err(text)?;
        let (memory, _) = h.alloc(h.fact("hyp_vcpu.size")).map_err(text)?;
        let reply = h
            .call("__pkvm_init_vcpu", &[self.handle, host, memory])
            .map_err(text)?;
        self.vcpus.push(FakeVcpu { host, memory });
        Ok(reply)
    }

    /// Loads vCPU `idx` on this CPU.
    pub fn load(&self, idx: usize) -> Result<()> {
        self.h
            .call("__pkvm_vcpu_load", &[self.handle, idx as u64, 0])
            .map(drop)
            .map_err(text)
    }

    /// Unloads whatever vCPU is loaded on this CPU.
    pub fn put(&self) -> Result<()> {
        self.h.call("__pkvm_vcpu_put", &[]).map(drop).map_err(text)
    }

    /// Runs vCPU `idx`, which must be loaded.
    pub fn run(&self, idx: usize) -> Result<super::Reply> {
        self.h
            .call("__kvm_vcpu_run", &[self.vcpus[idx].host])
            .map_err(text)
    }

    /// Puts `count` fresh pages on the memcache of vCPU `idx`, as the kernel does before a mapping call.
    pub fn top_up(&self, idx: usize, count: u64) -> Result<Vec<u64>> {
        let mc = self.vcpus[idx].host + self.h.fact("vcpu.memcache");
        let mut pages = Vec::new();
        for _ in 0..count {
            let (va, pa) = self.h.alloc(self.h.fact("page_size")).map_err(text)?;
            let head = self.h.peek64(mc + self.h.fact("mc.head")).map_err(text)?;
            let nr = self.h.peek64(mc + self.h.fact("mc.nr_pages")).map_err(text)?;
            self.h.poke64(va, head).map_err(text)?;
            self.h.poke64(mc + self.h.fact("mc.head"), pa).map_err(text)?;
            self.h
                .poke64(mc + self.h.fact("mc.nr_pages"), nr + 1)
                .map_err(text)?;
            pages.push(va);
        }
        Ok(pages)
    }

    /// Pages left on the host's list of vCPU `idx`.
    pub fn memcache_left(&self, idx: usize) -> Result<u64> {
        let mc = self.vcpus[idx].host + self.h.fact("vcpu.memcache");
        self.h.peek64(mc + self.h.fact("mc.nr_pages")).map_err(text)
    }

    /// Gives the guest a fresh page at `gfn`; vCPU 0 must be loaded. The page's physical address comes back.
    pub fn donate(&self, gfn: u64) -> Result<u64> {
        self.top_up(0, 8)?;
        let (va, pa) = self.h.alloc(self.h.fact("page_size")).map_err(text)?;
        self.h.poke64(va, SECRET).map_err(text)?;
        let pfn = pa / self.h.fact("page_size");
        self.h
            .call("__pkvm_host_donate_guest", &[pfn, gfn])
            .map_err(text)?
            .ok("donate_guest")?;
        Ok(pa)
    }

    /// Shares a fresh page with a normal guest at `gfn`; vCPU 0 must be loaded.
    pub fn share(&self, gfn: u64) -> Result<u64> {
        self.top_up(0, 8)?;
        let (_, pa) = self.h.alloc(self.h.fact("page_size")).map_err(text)?;
        let pfn = pa / self.h.fact("page_size");
        let prot = self.h.fact("prot_r") | self.h.fact("prot_w") | self.h.fact("prot_x");
        self.h
            .call("__pkvm_host_share_guest", &[pfn, gfn, 1, prot])
            .map_err(text)?
            .ok("share_guest")?;
        Ok(pa)
    }

    /// Ends it: every page of `gfns` is taken back first. Both lists of returned pages must be well formed and zero.
    pub fn destroy(self, gfns: &[u64], kind: Kind) -> Result<u64> {
        let h = self.h;
        h.call("__pkvm_start_teardown_vm", &[self.handle])
            .map_err(text)?
            .ok("start_teardown")?;
        for gfn in gfns {
            let reply = match kind {
                Kind::Protected => h.call("__pkvm_reclaim_dying_guest_page", &[self.handle, *gfn]),
                Kind::Normal => h.call("__pkvm_host_unshare_guest", &[self.handle, *gfn, 1]),
            };
            reply.map_err(text)?.ok("take back a page")?;
        }
        h.call("__pkvm_finalize_teardown_vm", &[self.handle])
            .map_err(text)?
            .ok("finalize_teardown")?;
        let returned = self.returned_pages()?;
        self.unshare_structures()?;
        Ok(returned)
    }

    /// Walks the two lists of pages that the end of a VM leaves in the host's structure. Each page must be the host's
    /// again, and zero but for the link.
    pub fn returned_pages(&self) -> Result<u64> {
        let h = self.h;
        let mut count = 0;
        for list in ["kvm.teardown_mc", "kvm.stage2_teardown_mc"] {
            let mc = self.host + h.fact(list);
            let mut at = h.peek64(mc + h.fact("mc.head")).map_err(text)?;
            let nr = h.peek64(mc + h.fact("mc.nr_pages")).map_err(text)?;
            for n in 0..nr {
                let va = h.va_of(at & !(h.fact("page_size") - 1)).map_err(text)?;
                let page = h
                    .peek(va, h.fact("page_size") as usize)
                    .map_err(|e| format!("{list}[{n}] {at:#x}: {e}"))?;
                if let Some(offset) = page[8..].iter().position(|b| *b != 0) {
                    return Err(format!("{list}[{n}] {at:#x} is not zero at {:#x}", offset + 8));
                }
                at = u64::from_le_bytes(page[..8].try_into().map_err(text)?);
                count += 1;
            }
        }
        Ok(count)
    }

    /// Takes the host's structures back from EL2, which must have dropped its pins.
    pub fn unshare_structures(&self) -> Result<()> {
        unshare(self.h, self.host, self.template.kvm.len())?;
        for vcpu in &self.vcpus {
            unshare(self.h, vcpu.host, self.template.vcpu.len())?;
        }
        Ok(())
    }
}

/// What a donated page begins with.
pub const SECRET: u64 = 0x5ec2_e75e_c2e7_5ec2;

/// Copies a structure into fresh pages and shares each of them with EL2.
fn shared_copy(h: &Hostile, bytes: &[u8]) -> Result<u64> {
    let (va, pa) = h.alloc(bytes.len() as u64).map_err(text)?;
    h.poke(va, bytes).map_err(text)?;
    let size = h.fact("page_size");
    for n in 0..(bytes.len() as u64).div_ceil(size) {
        h.call("__pkvm_host_share_hyp", &[pa / size + n])
            .map_err(text)?
            .ok("share_hyp")?;
    }
    Ok(va)
}

fn unshare(h: &Hostile, va: u64, len: usize) -> Result<()> {
    let size = h.fact("page_size");
    let pa = h.pa_of(va).map_err(text)?;
    for n in 0..(len as u64).div_ceil(size) {
        h.call("__pkvm_host_unshare_hyp", &[pa / size + n])
            .map_err(text)?
            .ok("unshare_hyp")?;
    }
    Ok(())
}
