// SPDX-License-Identifier: GPL-2.0-only
//! The client of `/dev/hostile`. A command is one write and one read of the structure in hostile.h.

use super::errno;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Error, Read, Result, Write};

const DATA: usize = 4096;
const HEAD: usize = 16 + 8 * (6 + 18);

/// `enum hostile_op`, as far as it is used here.
#[derive(Clone, Copy)]
enum Op {
    Hvc = 0,
    Smc = 1,
    Alloc = 2,
    Peek = 4,
    Poke = 5,
    Touch = 6,
    Exec = 7,
    KvmOf = 8,
    Facts = 9,
    Va = 10,
    Pa = 11,
}

#[derive(Clone)]
struct Command {
    op: Op,
    cpu: i32,
    arg: [u64; 6],
    regs: [u64; 18],
    data: Vec<u8>,
}

impl Command {
    fn new(op: Op) -> Self {
        Self {
            op,
            cpu: -1,
            arg: [0; 6],
            regs: [0; 18],
            data: Vec::new(),
        }
    }

    fn args(mut self, args: &[u64]) -> Self {
        self.arg[..args.len()].copy_from_slice(args);
        self
    }
}

/// What came back from a hypercall or an SMC.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// x0 to x17 after the call.
    pub regs: [u64; 18],
    /// The first register of x2 to x17 that the call changed, if it did.
    pub clobbered: Option<usize>,
}

impl Reply {
    /// x0: 0, or -1 when EL2 does not offer the call.
    pub fn x0(&self) -> i64 {
        self.regs[0].cast_signed()
    }

    /// x1: the call's result.
    pub fn x1(&self) -> i64 {
        self.regs[1].cast_signed()
    }

    /// The result of a call that was offered and returned zero.
    pub fn ok(&self, what: &str) -> std::result::Result<(), String> {
        if (self.x0(), self.x1()) == (0, 0) {
            Ok(())
        } else {
            Err(format!("{what}: {self}"))
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.x0(), errno::name(self.x1())) {
            (0, Some(name)) => write!(f, "{name}")?,
            (0, None) if self.x1().unsigned_abs() < 1 << 20 => write!(f, "x1={}", self.x1())?,
            (0, None) => write!(f, "x1={:#x}", self.x1())?,
            (-1, _) => write!(f, "NOT_SUPPORTED")?,
            (other, _) => write!(f, "x0={other:#x}")?,
        }
        if let Some(n) = self.clobbered {
            write!(f, ", and x{n} changed")?;
        }
        Ok(())
    }
}

/// A way to touch a physical page.
#[derive(Clone, Copy)]
pub enum Access {
    /// Load.
    Read,
    /// Store of what was loaded.
    Write,
}

/// The open device, and the facts that the module gave.
pub struct Hostile {
    file: RefCell<File>,
    facts: HashMap<String, u64>,
}

impl Hostile {
    /// Opens the device and reads the facts.
    ///
    /// # Errors
    /// The module is not loaded, or is another version.
    pub fn open() -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/hostile")?;
        let mut this = Self {
            file: RefCell::new(file),
            facts: HashMap::new(),
        };
        let mut text = Vec::new();
        loop {
            let done = this.run(Command::new(Op::Facts).args(&[text.len() as u64]))?;
            if done.arg[1] == 0 {
                break;
            }
            text.extend_from_slice(&done.data[..done.arg[1] as usize]);
        }
        for line in String::from_utf8_lossy(&text).lines() {
            if let Some((name, value)) = line.split_once(' ')
                && let Ok(value) = value.parse()
            {
                this.facts.insert(name.to_owned(), value);
            }
        }
        Ok(this)
    }

    /// A fact of the module.
    ///
    /// # Panics
    /// There is none of this name: the tests and the module are of different versions.
    pub fn fact(&self, name: &str) -> u64 {
        *self
            .facts
            .get(name)
            .unwrap_or_else(|| panic!("the module knows no fact {name}"))
    }

    /// Issues a hypercall by its name in the kernel.
    pub fn call(&self, name: &str, args: &[u64]) -> Result<Reply> {
        self.call_id(self.fact(&format!("call.{name}")), args)
    }

    /// Issues a hypercall by number.
    pub fn call_id(&self, id: u64, args: &[u64]) -> Result<Reply> {
        let mut regs = [0; 18];
        regs[0] = self.fact("call_base") + id;
        // Registers that are no argument hold canaries, so that a call which writes one is seen.
        for (n, reg) in regs.iter_mut().enumerate().skip(10) {
            *reg = 0xca4a_0000 + n as u64;
        }
        regs[1..=args.len()].copy_from_slice(args);
        self.hvc(-1, 0, regs)
    }

    /// Issues `HVC #imm` with all registers given. `cpu` is -1 for the CPU that this thread runs on.
    pub fn hvc(&self, cpu: i32, imm: u64, regs: [u64; 18]) -> Result<Reply> {
        self.issue(Op::Hvc, cpu, imm, regs)
    }

    /// Issues `SMC #imm` with all registers given.
    pub fn smc(&self, imm: u64, regs: [u64; 18]) -> Result<Reply> {
        self.issue(Op::Smc, -1, imm, regs)
    }

    fn issue(&self, op: Op, cpu: i32, imm: u64, regs: [u64; 18]) -> Result<Reply> {
        let mut command = Command::new(op).args(&[imm]);
        command.regs = regs;
        command.cpu = cpu;
        let done = self.run(command)?;
        let clobbered = (2..18).find(|n| done.regs[*n] != regs[*n]);
        Ok(Reply {
            regs: done.regs,
            clobbered,
        })
    }

    /// Takes zeroed memory from the kernel: its address in the linear map, and its physical address. It is aligned as
    /// the next power of two.
    pub fn alloc(&self, bytes: u64) -> Result<(u64, u64)> {
        let done = self.run(Command::new(Op::Alloc).args(&[bytes]))?;
        Ok((done.arg[1], done.arg[2]))
    }

    /// Reads kernel memory; a fault is an error.
    pub fn peek(&self, va: u64, len: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < len {
            let step = (len - out.len()).min(DATA);
            let done = self.run(Command::new(Op::Peek).args(&[va + out.len() as u64, step as u64]))?;
            out.extend_from_slice(&done.data[..step]);
        }
        Ok(out)
    }

    /// Reads a 64-bit word.
    pub fn peek64(&self, va: u64) -> Result<u64> {
        let bytes = self.peek(va, 8)?;
        Ok(u64::from_le_bytes(
            bytes.try_into().map_err(|_| Error::other("short read"))?,
        ))
    }

    /// Writes kernel memory; a fault is an error.
    pub fn poke(&self, va: u64, bytes: &[u8]) -> Result<()> {
        for (n, chunk) in bytes.chunks(DATA).enumerate() {
            let mut command = Command::new(Op::Poke).args(&[va + (n * DATA) as u64, chunk.len() as u64]);
            command.data = chunk.to_vec();
            self.run(command)?;
        }
        Ok(())
    }

    /// Writes a 64-bit word.
    pub fn poke64(&self, va: u64, value: u64) -> Result<()> {
        self.poke(va, &value.to_le_bytes())
    }

    /// Touches a physical address through a mapping of its own: of a page of memory, or of a device.
    pub fn touch(&self, phys: u64, access: Access, device: bool) -> Result<u32> {
        let how = match access {
            Access::Read => b'r',
            Access::Write => b'w',
        };
        let done = self.run(Command::new(Op::Touch).args(&[phys, how.into(), device.into()]))?;
        Ok(done.arg[3] as u32)
    }

    /// Maps a physical page into this process and runs what is there, at EL0.
    ///
    /// # Errors
    /// The page cannot be mapped.
    pub fn fetch(&self, phys: u64) -> Result<()> {
        super::fetch::run(&self.file.borrow(), phys)
    }

    /// Runs instructions at EL1 with x0 to x3 given, and gives them back; `None` if one was undefined.
    pub fn exec(&self, code: &[u32], x: [u64; 4]) -> Result<Option<[u64; 4]>> {
        let mut command = Command::new(Op::Exec).args(&[code.len() as u64]);
        command.data = code.iter().flat_map(|word| word.to_le_bytes()).collect();
        command.regs[..4].copy_from_slice(&x);
        match self.run(command) {
            Ok(done) => Ok(Some([done.regs[0], done.regs[1], done.regs[2], done.regs[3]])),
            // EILSEQ
            Err(error) if error.raw_os_error() == Some(84) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The address of the kernel's structure behind a KVM file descriptor.
    pub fn kvm_of(&self, fd: i32) -> Result<u64> {
        Ok(self.run(Command::new(Op::KvmOf).args(&[fd as u64]))?.arg[1])
    }

    /// The linear-map address of a physical one.
    pub fn va_of(&self, phys: u64) -> Result<u64> {
        Ok(self.run(Command::new(Op::Va).args(&[phys]))?.arg[1])
    }

    /// The physical address of a kernel address.
    pub fn pa_of(&self, va: u64) -> Result<u64> {
        Ok(self.run(Command::new(Op::Pa).args(&[va]))?.arg[1])
    }

    fn run(&self, command: Command) -> Result<Command> {
        let mut bytes = Vec::with_capacity(HEAD + DATA);
        bytes.extend_from_slice(&(command.op as u32).to_le_bytes());
        bytes.extend_from_slice(&command.cpu.to_le_bytes());
        bytes.extend_from_slice(&0u64.to_le_bytes());
        for word in command.arg.iter().chain(&command.regs) {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&command.data);
        bytes.resize(HEAD + DATA, 0);
        let mut file = self.file.borrow_mut();
        file.write_all(&bytes)?;
        file.read_exact(&mut bytes)?;
        let word = |n: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[8 * n + i]));
        let ret = word(1).cast_signed();
        if ret < 0 {
            return Err(Error::from_raw_os_error((-ret) as i32));
        }
        Ok(Command {
            op: command.op,
            cpu: command.cpu,
            arg: std::array::from_fn(|n| word(2 + n)),
            regs: std::array::from_fn(|n| word(8 + n)),
            data: bytes[HEAD..].to_vec(),
        })
    }
}
