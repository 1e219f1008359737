/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * /dev/hostile lets a test be the host kernel at its worst: it issues any hypercall or SMC with any registers, on any
 * CPU, reads and writes kernel memory, touches physical pages that the host may not touch, and runs single instructions
 * at EL1. A fault of any of these comes back as an error. One command is one write() of this structure and one read()
 * of the same, so that user space needs no ioctl. Its mmap() gives any physical page, to fetch instructions from.
 */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <linux/types.h>

enum hostile_op {
	HOSTILE_HVC,	/* regs in and out; arg[0]: immediate, 0, 1 or 0xffff */
	HOSTILE_SMC,	/* the same */
	HOSTILE_ALLOC,	/* arg[0]: bytes; out arg[1]: kernel address, arg[2]: physical address */
	HOSTILE_FREE,	/* arg[0]: kernel address, arg[1]: bytes */
	HOSTILE_PEEK,	/* arg[0]: kernel address, arg[1]: bytes; out data */
	HOSTILE_POKE,	/* arg[0]: kernel address, arg[1]: bytes; in data */
	HOSTILE_TOUCH,	/* arg[0]: physical address, arg[1]: 'r' or 'w', arg[2]: device memory; out arg[3]: value */
	HOSTILE_EXEC,	/* arg[0]: number of words in data; regs[0..3] in and out; -EILSEQ: undefined */
	HOSTILE_KVM_OF,	/* arg[0]: a file descriptor of KVM; out arg[1]: its struct kvm or kvm_vcpu */
	HOSTILE_FACTS,	/* out data: "name value" lines; in and out arg[0]: offset, out arg[1]: bytes */
	HOSTILE_VA,	/* arg[0]: physical address; out arg[1]: its linear-map address */
	HOSTILE_PA,	/* arg[0]: kernel address, linear map or image; out arg[1]: physical */
};

#define HOSTILE_DATA 4096

struct hostile_cmd {
	__u32 op;
	__s32 cpu;		/* -1: where the caller runs */
	__s64 ret;
	__u64 arg[6];
	__u64 regs[18];
	__u8 data[HOSTILE_DATA];
};

/* calls.S; imm is one of those that it knows, else 0. */
void hostile_hvc(u64 *regs, u64 imm);
void hostile_smc(u64 *regs, u64 imm);
/* Calls code with x0..x3 from regs, and stores them back; the label is where an undefined instruction goes on. */
void hostile_exec(u64 *regs, void *code);
extern char hostile_exec_out[];
extern u32 hostile_exec_room[1024];

/* probe.c */
int hostile_facts(char *buf, size_t size);

#endif
