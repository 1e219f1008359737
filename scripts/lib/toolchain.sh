# SPDX-License-Identifier: GPL-2.0-only
# Sourced inside the checkout. rust-toolchain.toml names a release; where rustup neither has it under that name nor can
# fetch it, a toolchain of the same release under another name ("stable") serves as well.
if ! cargo -V >/dev/null 2>&1 && command -v rustup >/dev/null; then
	pkvm_release=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "${PKVM_ROOT:-.}/rust-toolchain.toml")
	for pkvm_toolchain in $(rustup toolchain list 2>/dev/null | awk '{ print $1 }'); do
		case $(RUSTUP_TOOLCHAIN=$pkvm_toolchain rustc -V 2>/dev/null) in
		"rustc $pkvm_release "*)
			RUSTUP_TOOLCHAIN=$pkvm_toolchain
			export RUSTUP_TOOLCHAIN
			break
			;;
		esac
	done
fi
