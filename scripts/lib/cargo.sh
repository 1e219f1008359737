# SPDX-License-Identifier: GPL-2.0-only
# Sourced by scripts/run and scripts/test: what has to be there before cargo can build the rest of the machinery.

case " $* " in
*" --help "*|*" -h "*)
	sed -n '2,/^set -e/{/^set -e/d;/SPDX/d;s/^# \{0,1\}//p;}' "$0"
	exit 0
	;;
esac

PKVM_CWD=$PWD
export PKVM_CWD
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin
export PATH

if ! command -v cargo >/dev/null; then
	echo "error: cargo is not on PATH; install Rust with rustup and come again" >&2
	exit 2
fi
. scripts/lib/toolchain.sh
if ! cargo -V >/dev/null; then
	echo "error: cargo does not run here; rust-toolchain.toml names the release that is needed" >&2
	exit 2
fi
if ! command -v cc >/dev/null; then
	echo "  ... install gcc, which cargo links with"
	if [ "$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi
	{ $sudo apt-get update && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc libc6-dev; } \
		>/tmp/pkvm-rs-gcc.log 2>&1 || { echo "error: cannot install gcc, see /tmp/pkvm-rs-gcc.log" >&2; exit 2; }
	echo "  ok  install gcc, which cargo links with"
fi
