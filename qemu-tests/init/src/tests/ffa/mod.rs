// SPDX-License-Identifier: GPL-2.0-only
//! FF-A through EL2's proxy to the monitor at EL3: what it must do, what it must refuse, and that nothing the secure side
//! says costs the host its memory or a guest its secrets. What could end the machine on the C object is in the judgements.

pub mod client;
mod handles;
pub mod judged;
mod lies;
mod memory;
mod negotiation;

use super::{Fail, Outcome};
use crate::ktap::{Sub, note};
use client::Client;

type Part = fn(&mut Client) -> Result<(), String>;

const PARTS: &[(&str, Part)] = &[
    ("negotiate", negotiation::negotiate),
    ("calls", negotiation::calls),
    ("buffers", memory::buffers),
    ("share", memory::share),
    ("refused", memory::refused),
    ("fragments", memory::fragments),
    ("handles", handles::handles),
    ("lies", lies::lies),
];

/// Runs the part that the first word names.
pub fn run(sub: &mut Sub, words: &[String]) -> Outcome {
    let name = words.first().ok_or_else(|| "no part named".to_owned())?;
    match name.as_str() {
        "driver" => return negotiation::driver(sub),
        "version" => {
            let wanted = words.get(1).map_or("", String::as_str);
            return negotiation::version(wanted, words.len() > 2);
        }
        _ => {}
    }
    let (_, part) = PARTS
        .iter()
        .find(|(n, _)| n == name)
        .ok_or_else(|| format!("no part {name}"))?;
    if crate::system::cmdline_has("hyp=c") && name == "lies" {
        return Err(Fail::Skip(
            "on the C object each has a boot of its own in judgements".to_owned(),
        ));
    }
    let mut client = Client::open()?;
    client.map_buffers()?;
    let result = part(&mut client);
    if let Err(why) = result {
        client.bad.push(why);
    }
    if client.buffers.is_some()
        && let Err(why) = client.unmap_buffers()
    {
        client.bad.push(why);
    }
    if let Err(why) = client.close() {
        client.bad.push(why);
    }
    note(&format!("{} as they must be", client.good));
    for bad in &client.bad {
        note(bad);
    }
    match client.bad.len() {
        0 => Ok(()),
        count => Err(Fail::Because(format!("{count} are not as they must be"))),
    }
}
