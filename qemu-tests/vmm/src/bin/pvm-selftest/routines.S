// SPDX-License-Identifier: GPL-2.0-only
// See routines.rs. Each is called with arguments x0 to x2, returns in x0 to x3, may change any register but x19, and runs
// at EL1 with the MMU off unless it says so.

	.pushsection .rodata.pvm_routines, "a"
	.balign	2048
	.global pvm_routines_start
	.global pvm_routines_end
pvm_routines_start:

	// x19 is the monitor's; here it is among those watched, so its value is kept on the side.
	.global pvm_r_keep
pvm_r_keep:
	mov	x28, x30
	msr	tpidr_el0, x19
	msr	tpidrro_el0, x28
	mov	x3, #0x1000
	.irp	n, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
	add	x\n, x3, #\n
	.endr
	mov	sp, x3
	mov	x3, xzr
	hvc	#0
	msr	tpidr_el1, x0
	mov	x2, x1
	mov	x0, xzr
	mov	x3, #0x1000
	.irp	n, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
	add	x1, x3, #\n
	cmp	x1, x\n
	cinc	x0, x0, ne
	.endr
	mov	x1, sp
	cmp	x1, x3
	cinc	x0, x0, ne
	mrs	x1, tpidr_el1
	mrs	x19, tpidr_el0
	mrs	x30, tpidrro_el0
	ret

	.global pvm_r_share_rounds
pvm_r_share_rounds:
	mov	x10, x0
	mov	x11, x1
	mov	x14, xzr
	mov	x15, xzr
1:	cbz	x11, 2f
	movz	x0, #3
	movk	x0, #0xc600, lsl #16
	mov	x1, x10
	mov	x2, xzr
	mov	x3, xzr
	hvc	#0
	cmp	x0, #0
	cinc	x14, x14, eq
	movz	x0, #4
	movk	x0, #0xc600, lsl #16
	mov	x1, x10
	mov	x2, xzr
	mov	x3, xzr
	hvc	#0
	cmp	x0, #0
	cinc	x15, x15, eq
	sub	x11, x11, #1
	b	1b
2:	mov	x0, x14
	mov	x1, x15
	ret
	// The vectors of the routines that take exceptions. They count in registers, so that they need no stack: x20 IRQs,
	// x21 the last INTID, x22 how many of the last were alike, x24 SErrors, x25 the last one's ESR, x26 the ESR of
	// anything else, which is stepped over.
	.balign	2048
vectors:
	.balign	128
	b	8f			// current EL, SP_EL0
	.balign	128
	b	6f
	.balign	128
	b	8f
	.balign	128
	b	7f
	.balign	128
	b	8f			// current EL, SP_ELx
	.balign	128
	b	6f
	.balign	128
	b	8f
	.balign	128
	b	7f
	.rept	8			// lower EL
	.balign	128
	b	8f
	.endr
	.balign	128
6:	mrs	x23, s3_0_c12_c12_0	// ICC_IAR1_EL1
	cmp	x23, #1020
	b.hs	5f
	add	x20, x20, #1
	cmp	x23, x21
	csinc	x22, xzr, x22, ne
	cinc	x22, x22, ne
	mov	x21, x23
	cmp	x23, #27
	b.ne	1f
	msr	cntv_ctl_el0, xzr
1:	cmp	x23, #30
	b.ne	1f
	msr	cntp_ctl_el0, xzr
1:	isb
	msr	s3_0_c12_c12_1, x23	// ICC_EOIR1_EL1
	isb
5:	eret
7:	add	x24, x24, #1
	mrs	x25, esr_el1
	eret
8:	mrs	x26, esr_el1
	mrs	x23, elr_el1
	add	x23, x23, #4
	msr	elr_el1, x23
	eret

	// x27 keeps the monitor's vectors, x28 the link register.
	.macro	own_vectors
	mov	x28, x30
	mrs	x27, vbar_el1
	adr	x23, vectors
	msr	vbar_el1, x23
	mov	x20, xzr
	mov	x21, #1023
	mov	x22, xzr
	mov	x24, xzr
	mov	x25, xzr
	mov	x26, xzr
	isb
	.endm
	.macro	monitor_vectors
	msr	vbar_el1, x27
	isb
	mov	x30, x28
	.endm

	.global pvm_r_irq_setup
pvm_r_irq_setup:
	movz	x1, #0x0800, lsl #16	// GICD
	mov	w2, #0x12		// ARE, EnableGrp1
	str	w2, [x1]
	mov	w2, #-1
	str	w2, [x1, #0x84]		// GICD_IGROUPR1: SPIs 32 to 63
	movz	w3, #0xaaaa
	movk	w3, #0xaaaa, lsl #16
	str	w3, [x1, #0xc08]	// GICD_ICFGR2: edges
	str	w3, [x1, #0xc0c]
	str	w2, [x1, #0x104]	// GICD_ISENABLER1
	movz	x1, #0x080a, lsl #16	// GICR
	add	x1, x1, x0, lsl #17
	str	wzr, [x1, #0x14]	// GICR_WAKER: awake
	add	x1, x1, #0x10, lsl #12	// its SGI frame
	str	w2, [x1, #0x80]		// GICR_IGROUPR0
	str	w2, [x1, #0x100]	// GICR_ISENABLER0
	mov	x2, #0xff
	msr	s3_0_c4_c6_0, x2	// ICC_PMR_EL1
	mov	x2, #1
	msr	s3_0_c12_c12_7, x2	// ICC_IGRPEN1_EL1
	isb
	dsb	sy
	ret

	.global pvm_r_irq_take
pvm_r_irq_take:
	own_vectors
	msr	daifclr, #2
1:	cbz	x1, 2f
	sub	x1, x1, #1
	ldr	x3, [x19, #0x10]	// leaves the guest: time for whoever sends
	isb
	cbz	x0, 1b
	cmp	x20, x0
	b.lo	1b
2:	msr	daifset, #2
	isb
	monitor_vectors
	mov	x0, x20
	mov	x3, x1
	mov	x1, x21
	mov	x2, x22
	ret

	.global pvm_r_timer_start
pvm_r_timer_start:
	mov	x2, #1
	cmp	x1, #30
	b.eq	1f
	msr	cntv_tval_el0, x0
	msr	cntv_ctl_el0, x2
	isb
	ret
1:	msr	cntp_tval_el0, x0
	msr	cntp_ctl_el0, x2
	isb
	ret

	.global pvm_r_sgi_send
pvm_r_sgi_send:
	dsb	sy
	msr	s3_0_c12_c11_5, x0	// ICC_SGI1R_EL1
	isb
	ret

	.global pvm_r_serror_take
pvm_r_serror_take:
	own_vectors
	mov	x10, x0
	msr	daifclr, #4
	isb
1:	cbz	x10, 2f
	sub	x10, x10, #1
	movz	x0, #0x8600, lsl #16	// FEATURES
	mov	x1, xzr
	mov	x2, xzr
	mov	x3, xzr
	hvc	#0
	ldr	x3, [x19, #0x10]
	isb
	b	1b
2:	msr	daifset, #4
	isb
	monitor_vectors
	mov	x0, x24
	mov	x1, x25
	ret

	// Four words for each vCPU.
	.balign	8
boot_words:
	.space	8 * 32

	.global pvm_r_secondary
pvm_r_secondary:
	mrs	x1, mpidr_el1
	and	x1, x1, #7
	adr	x2, boot_words
	add	x2, x2, x1, lsl #5
	mrs	x3, currentel
	stp	x0, x3, [x2]
	mrs	x3, daif
	mrs	x4, sctlr_el1
	stp	x3, x4, [x2, #16]
	dsb	sy
	// The monitor starts 32 KiB below the routines.
	adr	x0, pvm_routines_start
	sub	x0, x0, #8, lsl #12
	br	x0

	.global pvm_r_boot_state
pvm_r_boot_state:
	adr	x4, boot_words
	add	x4, x4, x0, lsl #5
	ldp	x0, x1, [x4]
	ldp	x2, x3, [x4, #16]
	ret

	.global pvm_r_enter_aarch32
pvm_r_enter_aarch32:
	adr	x1, 1f
	msr	elr_el1, x1
	mov	x1, #0x1d0		// AArch32 User mode
	msr	spsr_el1, x1
	isb
	eret
	.balign	8
	// A32: ldr r1, [r0]; add r1, r1, #1; str r1, [r0]; b to the first
1:	.inst	0xe5901000
	.inst	0xe2811001
	.inst	0xe5801000
	.inst	0xeafffffb

	.global pvm_r_watch_mapping
pvm_r_watch_mapping:
	mov	x10, x0
	mov	x11, x1
	mov	x12, x2
	mov	x13, xzr
	mov	x14, xzr
	// Attribute 0: Device-nGnRnE, 1: Normal write-back.
	mov	x3, #0xff00
	msr	mair_el1, x3
	// T0SZ 25, TTBR0 walks write-back inner-shareable, TTBR1 off, 4 KiB, 40 bits.
	movz	x3, #0x3519
	movk	x3, #0x0080, lsl #16
	movk	x3, #0x0002, lsl #32
	msr	tcr_el1, x3
	msr	ttbr0_el1, x10
	isb
	dsb	sy
	mrs	x15, sctlr_el1
	orr	x3, x15, #1
	msr	sctlr_el1, x3
	isb
	movz	x4, #0x8000, lsl #16
1:	cbz	x11, 2f
	sub	x11, x11, #1
	ldr	x5, [x4]
	cmp	x5, x12
	b.eq	3f
	add	x13, x13, #1
	mov	x14, x5
3:	ldr	x5, [x19, #0x10]	// leaves the guest
	b	1b
2:	msr	sctlr_el1, x15
	isb
	mov	x0, x13
	mov	x1, x14
	ret

	.arch_extension pauth
	.global pvm_r_watch_key
pvm_r_watch_key:
	mov	x10, x0
	mov	x11, x1
	mov	x13, xzr
	msr	s3_0_c2_c1_0, x10	// APIAKeyLo_EL1
	mvn	x3, x10
	msr	s3_0_c2_c1_1, x3	// APIAKeyHi_EL1
	mrs	x15, sctlr_el1
	orr	x3, x15, #(1 << 31)	// EnIA
	msr	sctlr_el1, x3
	isb
	movz	x14, #0x4000, lsl #16
	mov	x4, #0x1234
	pacia	x14, x4
1:	cbz	x11, 2f
	sub	x11, x11, #1
	ldr	x5, [x19, #0x10]
	movz	x3, #0x4000, lsl #16
	pacia	x3, x4
	cmp	x3, x14
	cinc	x13, x13, ne
	b	1b
2:	msr	sctlr_el1, x15
	isb
	mov	x0, x13
	mov	x1, x14
	ret
	.arch_extension nopauth

	.global pvm_r_count_ticks
pvm_r_count_ticks:
	mov	x10, x0
	mov	x0, xzr
	isb
	mrs	x1, cntvct_el0
	mov	x2, x1
1:	cbz	x10, 2f
	sub	x10, x10, #1
	isb
	mrs	x3, cntvct_el0
	cmp	x3, x2
	cinc	x0, x0, lo
	mov	x2, x3
	b	1b
2:	mrs	x3, cntfrq_el0
	ret

	.global pvm_r_touch_for_ever
pvm_r_touch_for_ever:
	mov	x10, x0
	mov	x11, x1
1:	mov	x3, x10
	mov	x4, x11
2:	str	x2, [x3]
	add	x2, x2, #1
	add	x3, x3, #1, lsl #12
	sub	x4, x4, #1
	cbnz	x4, 2b
	b	1b

	.global pvm_r_wfi
pvm_r_wfi:
	mov	x10, x0
	mov	x0, xzr
1:	cbz	x10, 3f
	sub	x10, x10, #1
	mov	x3, #10000
	msr	cntv_tval_el0, x3
	mov	x3, #1
	msr	cntv_ctl_el0, x3
	isb
	// An interrupt of the host may end WFI too; only the timer's own condition counts.
2:	wfi
	mrs	x3, cntv_ctl_el0
	tbz	x3, #2, 2b
	add	x0, x0, #1
	msr	cntv_ctl_el0, xzr
	isb
	b	1b
3:	ret
pvm_routines_end:
	.popsection
