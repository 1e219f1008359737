// SPDX-License-Identifier: GPL-2.0-only
// See fpregs.rs. Both functions: x0 a pattern, x1 rounds; they return how many values were found changed.

	.pushsection .text.pvm_fpregs, "ax"
	.global pvm_fpregs_neon
	.global pvm_fpregs_sve

	// The callee-saved halves of v8 to v15.
	.macro	save_callee
	stp	d8, d9, [sp, #-64]!
	stp	d10, d11, [sp, #16]
	stp	d12, d13, [sp, #32]
	stp	d14, d15, [sp, #48]
	.endm
	.macro	restore_callee
	ldp	d10, d11, [sp, #16]
	ldp	d12, d13, [sp, #32]
	ldp	d14, d15, [sp, #48]
	ldp	d8, d9, [sp], #64
	.endm

pvm_fpregs_neon:
	save_callee
	mov	x2, xzr
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	add	x5, x0, #\n
	dup	v\n\().2d, x5
	.endr
1:	cbz	x1, 2f
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	add	x5, x0, #\n
	umov	x6, v\n\().d[0]
	cmp	x6, x5
	cinc	x2, x2, ne
	umov	x6, v\n\().d[1]
	cmp	x6, x5
	cinc	x2, x2, ne
	.endr
	sub	x1, x1, #1
	b	1b
2:	mov	x0, x2
	restore_callee
	ret

	.arch_extension sve
pvm_fpregs_sve:
	save_callee
	mov	x2, xzr
	ptrue	p0.b
	ptrue	p2.b, vl1
	ptrue	p3.b, vl3
	ptrue	p4.b, vl5
	ptrue	p5.b, vl7
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
	add	x5, x0, #\n
	dup	z\n\().d, x5
	.endr
1:	cbz	x1, 2f
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
	add	x5, x0, #\n
	dup	z31.d, x5
	cmpne	p1.d, p0/z, z\n\().d, z31.d
	cntp	x6, p0, p1.d
	add	x2, x2, x6
	.endr
	// p2 to p5 have 1, 3, 5 and 7 elements.
	cntp	x6, p0, p2.b
	cmp	x6, #1
	cinc	x2, x2, ne
	cntp	x6, p0, p3.b
	cmp	x6, #3
	cinc	x2, x2, ne
	cntp	x6, p0, p4.b
	cmp	x6, #5
	cinc	x2, x2, ne
	cntp	x6, p0, p5.b
	cmp	x6, #7
	cinc	x2, x2, ne
	sub	x1, x1, #1
	b	1b
2:	mov	x0, x2
	restore_callee
	ret
	.arch_extension nosve
	.popsection
