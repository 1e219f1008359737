// SPDX-License-Identifier: GPL-2.0-only
// The monitor guest: see monitor.rs. Runs at EL1 with the MMU off, from wherever it is loaded, in the 16 KiB from there.
// x19 holds the test device, x21 the results of the last command. Offsets are those of testdev.rs.

	.pushsection .rodata.pvm_monitor, "a"
	.balign	2048
	.global pvm_monitor_start
	.global pvm_monitor_end
pvm_monitor_start:
	b	1f

	// The exception vectors: each entry branches to one place, since any exception ends the command.
	.balign	2048
0:
	.rept	16
	.balign	128
	b	9f
	.endr
	.balign	128

1:	movz	x19, #0x0903, lsl #16
	adr	x0, 0b
	msr	vbar_el1, x0
	isb
	// FP stays trapped, except in the commands that use it.

2:	ldr	x9, [x19, #0x18]		// NEXT: waits for the test
	ldr	x0, [x19, #0x300]		// ARG 0 to 3
	ldr	x1, [x19, #0x308]
	ldr	x2, [x19, #0x310]
	ldr	x3, [x19, #0x318]
	cmp	x9, #1
	b.eq	3f
	cmp	x9, #2
	b.eq	4f
	cmp	x9, #3
	b.eq	5f
	cmp	x9, #4
	b.eq	6f
	cmp	x9, #5
	b.eq	7f
	cmp	x9, #6
	b.eq	60f
	cmp	x9, #7
	b.eq	80f
	cmp	x9, #8
	b.eq	90f
	cmp	x9, #9
	b.eq	95f
	str	xzr, [x19, #0x008]		// EXIT
	b	.

3:	ldr	x0, [x0]			// load
	b	8f

4:	str	x1, [x0]			// store
	dsb	sy
	b	8f

5:	hvc	#0				// hypercall
	str	x1, [x19, #0x388]
	str	x2, [x19, #0x390]
	str	x3, [x19, #0x398]
	b	8f

6:	cbz	x1, 8f				// fill
	str	x3, [x0]
	add	x0, x0, x2
	add	x3, x3, #1
	sub	x1, x1, #1
	b	6b

7:	mov	x4, xzr				// count
70:	cbz	x1, 71f
	ldr	x5, [x0]
	cmp	x5, x3
	cinc	x4, x4, eq
	add	x0, x0, x2
	add	x3, x3, #1
	sub	x1, x1, #1
	b	70b
71:	mov	x0, x4
	b	8f

	// storm: x0 first page, x1 rounds, x2 stride, x3 pages. Each round shares the next page, stores the number of
	// the round in it and takes it back. A hypercall changes x0 to x3 only.
60:	mov	x10, x0
	mov	x11, x1
	mov	x12, x2
	mov	x13, x3
	mov	x14, xzr			// page
	mov	x15, xzr			// how often MEM_SHARE succeeded
	mov	x16, xzr			// how often MEM_UNSHARE did
61:	cbz	x11, 64f
	madd	x4, x14, x12, x10
	movz	x0, #3
	movk	x0, #0xc600, lsl #16
	mov	x1, x4
	mov	x2, xzr
	mov	x3, xzr
	hvc	#0
	cmp	x0, #0
	cinc	x15, x15, eq
	str	x11, [x4]
	movz	x0, #4
	movk	x0, #0xc600, lsl #16
	mov	x1, x4
	mov	x2, xzr
	mov	x3, xzr
	hvc	#0
	cmp	x0, #0
	cinc	x16, x16, eq
	add	x14, x14, #1
	cmp	x14, x13
	csel	x14, xzr, x14, eq
	sub	x11, x11, #1
	b	61b
64:	mov	x0, x15
	str	x16, [x19, #0x388]		// RESULT 1
	b	8f

	// FP registers: x0 a pattern, x1 rounds, x2 which exits: bit 0 to the hypervisor, bit 1 to the VMM. The result is how
	// many of the registers' halves were found changed.
80:	mov	x10, x0
	mov	x11, x1
	mov	x13, x2
	mov	x14, xzr
	mrs	x4, cpacr_el1
	orr	x4, x4, #(3 << 20)
	msr	cpacr_el1, x4
	isb
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	add	x5, x10, #\n
	dup	v\n\().2d, x5
	.endr
81:	cbz	x11, 84f
	tbz	x13, #0, 82f
	movz	x0, #0x8600, lsl #16
	hvc	#0
82:	tbz	x13, #1, 83f
	ldr	x4, [x19, #0x10]		// CPU
83:
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	add	x5, x10, #\n
	umov	x6, v\n\().d[0]
	cmp	x6, x5
	cinc	x14, x14, ne
	umov	x6, v\n\().d[1]
	cmp	x6, x5
	cinc	x14, x14, ne
	.endr
	sub	x11, x11, #1
	b	81b
84:	mov	x0, x14
	b	8f

	// execute: x0 an instruction that changes no register but x0, x1 what it finds in x0. It is put into the fourth page
	// from the monitor's start.
90:	adr	x5, pvm_monitor_start
	add	x5, x5, #3, lsl #12
	str	w0, [x5]
	ldr	w6, 91f
	str	w6, [x5, #4]
	dc	cvau, x5
	dsb	ish
	ic	ivau, x5
	dsb	ish
	isb
	mov	x0, x1
	blr	x5
	b	8f
91:	ret

	// call: a routine at x0 with arguments x1 to x3 as its x0 to x2; its results are x0 to x3. It keeps x19.
95:	mov	x9, x0
	mov	x0, x1
	mov	x1, x2
	mov	x2, x3
	blr	x9
	str	x1, [x19, #0x388]
	str	x2, [x19, #0x390]
	str	x3, [x19, #0x398]
	b	8f

8:	str	x0, [x19, #0x380]		// RESULT 0
	str	xzr, [x19, #0x020]		// DONE
	b	2b

9:	mrs	x0, esr_el1
	str	x0, [x19, #0x380]
	mrs	x0, far_el1
	str	x0, [x19, #0x388]
	mrs	x0, elr_el1
	str	x0, [x19, #0x390]
	mov	x0, #1
	str	x0, [x19, #0x020]
	b	2b
pvm_monitor_end:
	.popsection
