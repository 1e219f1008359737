// SPDX-License-Identifier: GPL-2.0-only
/*
 * One line of the kernel log that says which EL2 object this kernel carries, so that nobody mistakes which one runs.
 * It is printed before KVM starts: a hypervisor that fails to start has then been named already.
 */
#define pr_fmt(fmt) "kvm: " fmt

#include <linux/init.h>
#include <linux/printk.h>
#include <linux/utsname.h>
#include <asm/virt.h>

#include "pkvm-rs-version.h"

static int __init pkvm_rs_banner(void)
{
	/* A guest, and a host that was entered at EL1, have no EL2 to speak of. */
	if (!is_hyp_mode_available())
		return 0;

	/* In VHE mode the host kernel itself is at EL2 and the object linked for nVHE lies idle. */
	if (is_kernel_in_hyp_mode())
		pr_info("EL2 object: none (VHE: the host kernel runs at EL2)\n");
	else if (IS_ENABLED(CONFIG_KVM_ARM_HYP_RUST))
		pr_info("EL2 object: %s\n", PKVM_RS_VERSION);
	else
		pr_info("EL2 object: C (Linux %s)\n", init_utsname()->release);
	return 0;
}
subsys_initcall(pkvm_rs_banner);
