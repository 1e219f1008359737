/* SPDX-License-Identifier: GPL-2.0-only */
/* The instructions of the test module that C cannot say. */
#include <linux/linkage.h>
#include <asm/assembler.h>

/* x0: array of 18 registers, in and out; x1: the immediate. */
.macro call_fn name:req, insn:req
SYM_FUNC_START(\name)
	stp	x29, x30, [sp, #-32]!
	mov	x29, sp
	stp	x0, x19, [sp, #16]
	mov	x19, x1
	mov	x18, x0
	ldp	x2, x3, [x18, #16]
	ldp	x4, x5, [x18, #32]
	ldp	x6, x7, [x18, #48]
	ldp	x8, x9, [x18, #64]
	ldp	x10, x11, [x18, #80]
	ldp	x12, x13, [x18, #96]
	ldp	x14, x15, [x18, #112]
	ldp	x16, x17, [x18, #128]
	ldp	x0, x1, [x18]
	cmp	x19, #1
	b.eq	1f
	b.hi	2f
	\insn	#0
	b	3f
1:	\insn	#1
	b	3f
2:	\insn	#0xffff
3:	ldr	x18, [sp, #16]
	stp	x0, x1, [x18]
	stp	x2, x3, [x18, #16]
	stp	x4, x5, [x18, #32]
	stp	x6, x7, [x18, #48]
	stp	x8, x9, [x18, #64]
	stp	x10, x11, [x18, #80]
	stp	x12, x13, [x18, #96]
	stp	x14, x15, [x18, #112]
	stp	x16, x17, [x18, #128]
	ldr	x19, [sp, #24]
	ldp	x29, x30, [sp], #32
	ret
SYM_FUNC_END(\name)
.endm

call_fn hostile_hvc, hvc
call_fn hostile_smc, smc

/*
 * x0: array of 4 registers, in and out; x1: code that ends in ret. The handler of an undefined instruction resumes at
 * hostile_exec_out, so the frame is found through x29, which the code may not change.
 */
SYM_FUNC_START(hostile_exec)
	stp	x29, x30, [sp, #-32]!
	mov	x29, sp
	str	x0, [sp, #16]
	mov	x9, x1
	mov	x10, x0
	ldp	x2, x3, [x10, #16]
	ldp	x0, x1, [x10]
	blr	x9
SYM_INNER_LABEL(hostile_exec_out, SYM_L_GLOBAL)
	mov	sp, x29
	ldr	x10, [sp, #16]
	stp	x0, x1, [x10]
	stp	x2, x3, [x10, #16]
	ldp	x29, x30, [sp], #32
	ret
SYM_FUNC_END(hostile_exec)

/* Room for the instructions that EXEC runs: a page of the module's text, since the kernel makes nothing else executable. */
	.balign	4096
SYM_DATA_START(hostile_exec_room)
	.fill	1024, 4, 0xd65f03c0	/* ret */
SYM_DATA_END(hostile_exec_room)
