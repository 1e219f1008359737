// SPDX-License-Identifier: GPL-2.0-only
//! The test device: one MMIO page by which a bare-metal guest talks to the test that runs it.
//!
//! Registers, by offset from [`crate::layout::TESTDEV_BASE`]; all little-endian, any access size up to 8 bytes from the
//! start of a register:
//!
//! | offset | access | meaning |
//! |---|---|---|
//! | 0x000 | W | `PUTC`: up to 8 characters of console output; zero bytes are skipped |
//! | 0x008 | W | `EXIT`: ends the VM with this status |
//! | 0x010 | R | `CPU`: index of the vCPU that reads |
//! | 0x018 | R | `NEXT`: the next command for this vCPU; the access takes as long as the test lets it wait |
//! | 0x020 | W | `DONE`: the command of this vCPU is done; the value is its status |
//! | 0x100 + 8 n | R | `PARAM n`, n < 32: words that the test gave at the start |
//! | 0x200 + 8 n | W | `REPORT n`, n < 32: words for the test to read; the last write counts |
//! | 0x300 + 8 n | R | `ARG n`, n < 8: arguments of this vCPU's current command |
//! | 0x380 + 8 n | W | `RESULT n`, n < 8: results of this vCPU's current command |
//!
//! A payload of the plain kind uses `PUTC`, `PARAM`, `REPORT` and `EXIT`. Commands are for the monitor
//! ([`crate::monitor`]), whose tests run on the host.

use crate::bus::{Access, MmioDevice, Outcome, put_value, value_of};
use crate::serial::Sink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Offset of `PUTC`.
pub const PUTC: u64 = 0x000;
/// Offset of `EXIT`.
pub const EXIT: u64 = 0x008;
/// Offset of `CPU`.
pub const CPU: u64 = 0x010;
/// Offset of `NEXT`.
pub const NEXT: u64 = 0x018;
/// Offset of `DONE`.
pub const DONE: u64 = 0x020;
/// Offset of `PARAM 0`.
pub const PARAM: u64 = 0x100;
/// Offset of `REPORT 0`.
pub const REPORT: u64 = 0x200;
/// Offset of `ARG 0`.
pub const ARG: u64 = 0x300;
/// Offset of `RESULT 0`.
pub const RESULT: u64 = 0x380;
/// How many parameters and reports there are.
pub const WORDS: usize = 32;
/// How many arguments and results a command has.
pub const ARGS: usize = 8;

/// What `NEXT` reads as when no command will come any more: the guest is to write 0 to `EXIT`.
pub const OP_QUIT: u64 = 0;

/// A command for the monitor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Command {
    /// What to do; one of the monitor's operations.
    pub op: u64,
    /// Its arguments.
    pub args: [u64; ARGS],
}

/// What came of a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reply {
    /// The value written to `DONE`.
    pub status: u64,
    /// The values written to `RESULT n`.
    pub results: [u64; ARGS],
}

/// The test's end of one vCPU's commands.
#[derive(Debug)]
pub struct Channel {
    /// Takes a command to the vCPU.
    pub commands: Sender<Command>,
    /// Brings its replies.
    pub replies: Receiver<Reply>,
}

struct Cpu {
    commands: Mutex<Receiver<Command>>,
    state: Mutex<(Command, Reply, Sender<Reply>)>,
}

/// The device.
pub struct TestDevice {
    params: [u64; WORDS],
    reports: Mutex<[u64; WORDS]>,
    out: Mutex<Sink>,
    cpus: Vec<Cpu>,
    stop: Arc<AtomicBool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TestDevice {
    /// A device for `cpus` vCPUs that prints to `out`; the channels are in the order of the vCPUs. `stop` is the VM's
    /// ([`crate::vm::Vm::stop_flag`]).
    pub fn new(cpus: u32, params: [u64; WORDS], out: Sink, stop: Arc<AtomicBool>) -> (Self, Vec<Channel>) {
        let (cpus, channels) = (0..cpus)
            .map(|_| {
                let (commands, to_guest) = channel();
                let (from_guest, replies) = channel();
                let state = Mutex::new((Command::default(), Reply::default(), from_guest));
                (
                    Cpu {
                        commands: Mutex::new(to_guest),
                        state,
                    },
                    Channel { commands, replies },
                )
            })
            .unzip();
        (
            Self {
                params,
                reports: Mutex::default(),
                out: Mutex::new(out),
                cpus,
                stop,
            },
            channels,
        )
    }

    /// What the guest has reported so far.
    pub fn reports(&self) -> [u64; WORDS] {
        *lock(&self.reports)
    }

    /// Waits for the test's next command, until the test drops its end or the VM is stopped.
    fn next(&self, cpu: &Cpu) -> u64 {
        let commands = lock(&cpu.commands);
        while !self.stop.load(Ordering::SeqCst) {
            match commands.recv_timeout(Duration::from_millis(20)) {
                Ok(command) => {
                    let mut state = lock(&cpu.state);
                    (state.0, state.1) = (command, Reply::default());
                    return command.op;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        OP_QUIT
    }
}

/// The index of the register at `offset` in an array of `count` that starts at `base`.
fn slot(offset: u64, base: u64, count: usize) -> Option<usize> {
    let index = usize::try_from(offset.checked_sub(base)? / 8).ok()?;
    (index < count).then_some(index)
}

impl MmioDevice for TestDevice {
    fn read(&self, at: Access, data: &mut [u8]) {
        let cpu = self.cpus.get(at.cpu as usize);
        let value = if at.offset == CPU {
            u64::from(at.cpu)
        } else if at.offset == NEXT {
            cpu.map_or(OP_QUIT, |cpu| self.next(cpu))
        } else if let Some(index) = slot(at.offset, ARG, ARGS) {
            cpu.map_or(0, |cpu| lock(&cpu.state).0.args[index])
        } else if let Some(index) = slot(at.offset, PARAM, WORDS) {
            self.params[index]
        } else {
            0
        };
        put_value(data, value);
    }

    fn write(&self, at: Access, data: &[u8]) -> Option<Outcome> {
        let value = value_of(data);
        let cpu = self.cpus.get(at.cpu as usize);
        if at.offset == EXIT {
            return Some(Outcome::Exit(value));
        } else if at.offset == PUTC {
            let text: Vec<u8> = data.iter().copied().filter(|byte| *byte != 0).collect();
            let mut out = lock(&self.out);
            let _ = out.write_all(&text).and_then(|()| out.flush());
        } else if at.offset == DONE {
            if let Some(cpu) = cpu {
                let mut state = lock(&cpu.state);
                state.1.status = value;
                // The test may have stopped listening; then nobody needs the reply.
                let _ = state.2.send(state.1);
            }
        } else if let Some(index) = slot(at.offset, RESULT, ARGS) {
            if let Some(cpu) = cpu {
                lock(&cpu.state).1.results[index] = value;
            }
        } else if let Some(index) = slot(at.offset, REPORT, WORDS) {
            lock(&self.reports)[index] = value;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Access {
        Access { cpu: 0, offset }
    }

    fn read(device: &TestDevice, offset: u64) -> u64 {
        let mut data = [0; 8];
        device.read(at(offset), &mut data);
        value_of(&data)
    }

    #[test]
    fn a_command_goes_out_and_its_reply_comes_back() {
        let mut params = [0; WORDS];
        params[31] = 9;
        let (device, channels) = TestDevice::new(1, params, Box::new(std::io::sink()), Arc::default());
        assert_eq!(read(&device, PARAM + 8 * 31), 9);
        assert_eq!(read(&device, PARAM + 8 * 32), 0);

        channels[0]
            .commands
            .send(Command {
                op: 3,
                args: [1, 2, 3, 4, 5, 6, 7, 8],
            })
            .unwrap();
        assert_eq!(read(&device, NEXT), 3);
        assert_eq!(read(&device, ARG + 8 * 7), 8);
        assert_eq!(device.write(at(RESULT + 8), &77_u64.to_le_bytes()), None);
        assert_eq!(device.write(at(DONE), &1_u64.to_le_bytes()), None);
        let reply = channels[0].replies.try_recv().unwrap();
        assert_eq!((reply.status, reply.results[0], reply.results[1]), (1, 0, 77));

        drop(channels);
        assert_eq!(read(&device, NEXT), OP_QUIT);
        assert_eq!(device.write(at(EXIT), &[5]), Some(Outcome::Exit(5)));
        assert_eq!(device.write(at(REPORT + 16), &[1, 2]), None);
        assert_eq!(device.reports()[2], 0x201);
    }
}
