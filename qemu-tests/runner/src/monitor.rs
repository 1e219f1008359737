// SPDX-License-Identifier: GPL-2.0-only
//! Asks a machine that has gone silent where its CPUs are. A silent machine may be a kernel that waits, or an EL2 that
//! died with a lock in its hands, on which the host's own last words then wait for ever.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The exception levels of the CPUs, as QEMU's monitor on `socket` gives them, or nothing if it does not answer.
pub fn levels(socket: &Path) -> Option<String> {
    let stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    let mut ask = |text: &str| -> Option<String> {
        writeln!(writer, "{text}").ok()?;
        // Events may come before the answer.
        for _ in 0..20 {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
            if line.contains("\"return\"") {
                return Some(line);
            }
        }
        None
    };
    ask(r#"{"execute":"qmp_capabilities"}"#)?;
    let registers =
        ask(r#"{"execute":"human-monitor-command","arguments":{"command-line":"info registers -a"}}"#)?;
    found(&registers)
}

fn found(registers: &str) -> Option<String> {
    let levels: Vec<&str> = registers
        .match_indices(" EL")
        .filter_map(|(at, _)| registers.get(at + 1..at + 4))
        .filter(|word| matches!(word.as_bytes(), [b'E', b'L', b'0'..=b'3']))
        .collect();
    (!levels.is_empty()).then(|| format!("CPUs at {}", levels.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::found;

    #[test]
    fn levels_are_read() {
        let text = "CPU#0\\r\\n PC=0000 \\r\\nPSTATE=600003c9 -ZC- EL2h FPCR=0\\r\\nPSTATE=6 ---- EL0t SVCR";
        assert_eq!(found(text).as_deref(), Some("CPUs at EL2, EL0"));
        assert_eq!(found("nothing"), None);
    }
}
