// SPDX-License-Identifier: GPL-2.0-only
//! Linux guests: one, and several at once.

use crate::Context;
use crate::guest::{Guest, Options, try_run};
use crate::report::Report;
use pkvm_vmm::Result;
use pkvm_vmm::vm::Kind;
use std::time::Duration;

/// How long a guest may take from boot to power-off under emulation, with others beside it.
pub const LIMIT: Duration = Duration::from_mins(2);

/// A protected Linux guest does all that it should.
pub fn linux(context: &Context, report: &mut Report) -> Result<()> {
    report.say("pvm-run boots an unmodified Linux in a protected VM with 2 vCPUs and a disk, to a shell");
    alone(context, report, "pvm", Kind::Protected)
}

/// A normal one does.
pub fn plain(context: &Context, report: &mut Report) -> Result<()> {
    report.say("pvm-run boots an unmodified Linux in a normal VM with 2 vCPUs and a disk, to a shell");
    alone(context, report, "plain", Kind::Normal)
}

fn alone(context: &Context, report: &mut Report, name: &str, kind: Kind) -> Result<()> {
    let options = Options {
        name,
        kind,
        cpus: 2,
        extra: "guest.shell",
    };
    let mut guest = Guest::boot(context, &options)?;
    let shell = guest
        .await_line("GUEST shell", LIMIT)
        .and_then(|()| guest.type_in("echo the shell says $((6 * 7)) to $(uname -m)\n"))
        .and_then(|()| guest.await_line("the shell says 42 to aarch64", LIMIT))
        .and_then(|()| guest.type_in("exit\n"));
    report.result(&format!("{name} has a shell on its console"), shell);
    judge(&mut guest, &options, report);
    Ok(())
}

/// Waits for the end of a guest and checks what it said.
fn judge(guest: &mut Guest, options: &Options<'_>, report: &mut Report) {
    let name = options.name;
    let ended = guest.await_end(LIMIT).and_then(|status| match status.code() {
        Some(0) => Ok(()),
        _ => Err(format!("pvm-run ended with {status}")),
    });
    report.result(&format!("{name} boots and powers off"), ended);
    let vcpus = guest
        .said(&format!("with {} vCPUs", options.cpus))
        .and_then(|()| (0..options.cpus).try_for_each(|n| guest.said(&format!("GUEST vcpu {n} works"))));
    report.result(&format!("{name} runs on {} vCPUs", options.cpus), vcpus);
    let path = match options.kind {
        Kind::Protected => "by a pool that is shared with the host",
        Kind::Normal => "anywhere in memory",
    };
    report.result(&format!("{name}'s disk transfers {path}"), guest.said(path));
    report.result(
        &format!("{name}'s disk holds what the guest wrote"),
        guest.check_disk(1),
    );
    report.result(
        &format!("{name} found nothing wrong"),
        guest.said("GUEST done: all is well"),
    );
}

/// Boots all of `guests` at the same time and judges each.
fn together(context: &Context, report: &mut Report, guests: &[Options<'_>]) -> Result<()> {
    let mut running = Vec::new();
    for options in guests {
        let what = if options.kind == Kind::Protected {
            "protected"
        } else {
            "normal"
        };
        report.say(format_args!("{} starts: a {what} VM", options.name));
        running.push(Guest::boot(context, options)?);
    }
    let up = running
        .iter_mut()
        .try_for_each(|guest| guest.await_line("GUEST up", LIMIT));
    report.result("all guests are up at the same time", up);
    for (guest, options) in running.iter_mut().zip(guests) {
        judge(guest, options, report);
    }
    Ok(())
}

/// A normal guest beside a protected one. Each idles for a while, so that both are up at once.
pub fn beside(context: &Context, report: &mut Report) -> Result<()> {
    let extra = "guest.idle=3";
    together(
        context,
        report,
        &[
            Options {
                name: "pvm",
                kind: Kind::Protected,
                cpus: 2,
                extra,
            },
            Options {
                name: "normal",
                kind: Kind::Normal,
                cpus: 2,
                extra,
            },
        ],
    )
}

/// Two protected guests and a normal one.
pub fn crowd(context: &Context, report: &mut Report) -> Result<()> {
    let extra = "guest.idle=5";
    together(
        context,
        report,
        &[
            Options {
                name: "pvm-a",
                kind: Kind::Protected,
                cpus: 2,
                extra,
            },
            Options {
                name: "pvm-b",
                kind: Kind::Protected,
                cpus: 1,
                extra,
            },
            Options {
                name: "normal",
                kind: Kind::Normal,
                cpus: 2,
                extra,
            },
        ],
    )
}

/// The case that runs without root's rights.
const NO_RIGHT: &str = "no right to lock memory";
/// A user with no rights.
const NOBODY: u32 = 65534;

/// Every wrong use is answered by one line and status 1.
pub fn errors(context: &Context, report: &mut Report) -> Result<()> {
    let kernel = context.kernel.to_string_lossy().into_owned();
    let initrd = context.initrd.to_string_lossy().into_owned();
    let cases: [(&str, &[&str]); 9] = [
        (NO_RIGHT, &["--kernel", &kernel, "--protected"]),
        ("no kernel", &["--protected"]),
        ("a kernel that is not there", &["--kernel", "/nowhere"]),
        ("a kernel that is none", &["--kernel", &initrd]),
        ("an unknown option", &["--kernel", &kernel, "--fast"]),
        ("too many vCPUs", &["--kernel", &kernel, "--cpus", "1000"]),
        ("a size that is none", &["--kernel", &kernel, "--mem", "lots"]),
        (
            "too little memory",
            &["--kernel", &kernel, "--initrd", &initrd, "--mem", "2M"],
        ),
        (
            "a disk that is not there",
            &["--kernel", &kernel, "--disk", "/nowhere"],
        ),
    ];
    for (what, words) in cases {
        let user = (what == NO_RIGHT).then_some(NOBODY);
        let (code, text) = try_run(context, words, user)?;
        report.say(format_args!("{what}: {}", text.trim_end()));
        let good = code == Some(1) && text.trim_end().lines().count() == 1 && text.starts_with("pvm-run: ");
        let result = good
            .then_some(())
            .ok_or_else(|| format!("status {code:?} and {text:?}"));
        report.result(&format!("{what} is one line and status 1"), result);
    }
    Ok(())
}
