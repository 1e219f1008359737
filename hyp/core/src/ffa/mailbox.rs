// SPDX-License-Identifier: GPL-2.0-only
//! The mailboxes: the host's, which EL2 borrows, and EL2's own, which the SPM knows. And what firmware writes there: the
//! list of partitions.

use pkvm_types::{PAGE_SIZE, Pfn, Phys};

use super::abi::{HOST_ID, MAILBOX_PAGES, Regs, Status, Version, WIDE, id};
use super::{Answer, HostMailboxes, Machine, Proxy, call_firmware, outcome, success};

/// FFA_RXTX_MAP (tx, rx, pages): EL2 borrows the host's mailboxes, and gives the SPM its own.
pub fn map(proxy: &mut Proxy, [tx, rx, pages]: [u64; 3], regs: &mut Regs, m: &mut impl Machine) -> Answer {
    let (tx, rx) = (Phys::new(tx), Phys::new(rx));
    if u64::from(pages as u32) != MAILBOX_PAGES || !tx.is_page_aligned() || !rx.is_page_aligned() {
        return Err(Status::INVALID_PARAMETERS);
    }
    if proxy.host.is_some() {
        return Err(Status::DENIED);
    }
    let tx = m
        .borrow_page(Pfn::of(tx))
        .map_err(|_| Status::INVALID_PARAMETERS)?;
    let Ok(rx) = m.borrow_page(Pfn::of(rx)) else {
        m.return_page(tx);
        return Err(Status::INVALID_PARAMETERS);
    };
    if !proxy.mapped {
        let (own_tx, own_rx) = m.mailboxes();
        let arguments = [own_tx.raw(), own_rx.raw(), MAILBOX_PAGES];
        call_firmware(m, regs, id::RXTX_MAP | WIDE, &arguments);
        if let Err(status) = outcome(regs) {
            m.return_page(rx);
            m.return_page(tx);
            return Err(status);
        }
        proxy.mapped = true;
    }
    proxy.host = Some(HostMailboxes { tx, rx });
    Ok(success(0, 0))
}

/// FFA_RXTX_UNMAP (id): the host has its pages back in any case. An SPM that refuses keeps EL2's mailboxes until the next
/// time.
pub fn unmap(proxy: &mut Proxy, id: u64, regs: &mut Regs, m: &mut impl Machine) -> Answer {
    if u64::from(id as u32) != HOST_ID {
        return Err(Status::INVALID_PARAMETERS);
    }
    let HostMailboxes { tx, rx } = proxy.host.take().ok_or(Status::INVALID_PARAMETERS)?;
    m.return_page(tx);
    m.return_page(rx);
    call_firmware(m, regs, self::id::RXTX_UNMAP, &[HOST_ID]);
    if outcome(regs).is_ok() {
        proxy.mapped = false;
    }
    Ok(success(0, 0))
}

/// FFA_RX_RELEASE: the SPM may write to EL2's mailbox again. It goes through the proxy so that it cannot happen while EL2
/// copies out of it.
pub fn release(regs: &mut Regs, m: &mut impl Machine) -> Answer {
    call_firmware(m, regs, id::RX_RELEASE, &[]);
    let [w2, w3] = outcome(regs)?;
    Ok(success(w2, w3))
}

/// FFA_PARTITION_INFO_GET (UUID in four words, flags): the SPM writes to EL2's mailbox, EL2 copies to the host's. After a
/// success the host owes an FFA_RX_RELEASE, as it would without a proxy.
pub fn partition_info(
    proxy: &mut Proxy,
    arguments: [u64; 5],
    regs: &mut Regs,
    m: &mut impl Machine,
) -> Answer {
    /// The flag by which the caller wants the number of partitions alone, since version 1.1.
    const COUNT_ONLY: u64 = 1;
    let rx = &proxy.host.as_ref().ok_or(Status::BUSY)?.rx;
    let version = proxy.agreed.ok_or(Status::INVALID_PARAMETERS)?;
    let arguments = arguments.map(|word| word & 0xffff_ffff);
    call_firmware(m, regs, id::PARTITION_INFO_GET, &arguments);
    let [count, size] = outcome(regs)?;
    let [.., flags] = arguments;
    let later = version >= Version::V1_1;
    if count == 0 || later && flags & COUNT_ONLY != 0 {
        return Ok(success(count, size));
    }
    let size_of_one = if later {
        size
    } else {
        Version::PARTITION_INFO_BYTES_1_0
    };
    // Two numbers of 32 bits.
    let bytes = count.saturating_mul(size_of_one);
    match u32::try_from(bytes) {
        Ok(copy) if bytes <= PAGE_SIZE => m.copy_to_host(rx, copy),
        _ => {
            // The host sees an error, so it will not give the mailbox back.
            let _ = release(regs, m);
            return Err(Status::ABORTED);
        }
    }
    Ok(success(count, size))
}
