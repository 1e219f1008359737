// SPDX-License-Identifier: GPL-2.0-only
// The program of sve.rs: fills Z, P and FFR with patterns, pauses, and counts what it finds changed. It runs at EL1 with
// the MMU off; x19 holds the place of reports. Report 0 takes a pattern and report 1 the ZCR_EL1.LEN to use, which the
// test hands over in x20 and x21.

	.pushsection .rodata.vm_feature_sve, "a"
	.balign	8
	.global vm_feature_sve_start
	.global vm_feature_sve_end
	.arch_extension sve
vm_feature_sve_start:
	movz	x19, #0x0900, lsl #16
	movz	x0, #0x4000, lsl #16
	msr	vbar_el1, x0
	mov	x0, #(3 << 16 | 3 << 20)
	msr	cpacr_el1, x0
	isb
	msr	S3_0_C1_C2_0, x21		// ZCR_EL1
	isb
	rdvl	x0, #1
	str	x0, [x19, #0]			// report 0: bytes of a vector
	ptrue	p0.b
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
	add	x5, x20, #\n
	dup	z\n\().d, x5
	.endr
	// FFR: the first five bytes' elements.
	setffr
	ptrue	p7.b, vl5
	wrffr	p7.b
	ptrue	p2.b, vl1
	ptrue	p3.b, vl3
	ptrue	p4.b, vl5
	ptrue	p5.b, vl7
	ptrue	p15.b, vl2
1:	str	x20, [x19, #0x200]		// pause
	mov	x2, xzr
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
	add	x5, x20, #\n
	dup	z31.d, x5
	cmpne	p1.d, p0/z, z\n\().d, z31.d
	cntp	x6, p0, p1.d
	add	x2, x2, x6
	.endr
	.irp	pair, 2, 3, 4, 5, 15
	cntp	x6, p0, p\pair\().b
	.if	\pair == 15
	cmp	x6, #2
	.else
	mov	x7, #(2 * \pair - 3)
	cmp	x6, x7
	.endif
	cinc	x2, x2, ne
	.endr
	rdffr	p1.b
	cntp	x6, p0, p1.b
	cmp	x6, #5
	cinc	x2, x2, ne
	str	x2, [x19, #8]			// report 1: how many are changed
	rdvl	x0, #1
	str	x0, [x19, #16]			// report 2: bytes of a vector now
	b	1b
	.arch_extension nosve
vm_feature_sve_end:
	.popsection
