#!/bin/sh
# Installs what the tests need and a bare machine lacks: make, haproxy and iproute2, which they drive for real, and the C compiler
# that Go's race detector links with. Installs nothing that is there.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin # where haproxy is, and where a user's PATH does not look

fail() {
	echo "setup: $*" >&2
	exit 1
}

command -v go >/dev/null || fail "go is not in PATH: kicker needs Go 1.26 or newer, see https://go.dev/doc/install"
go list -m >/dev/null || fail "$(command -v go) is no Go for this module: kicker needs Go 1.26 or newer, see https://go.dev/doc/install"

missing=
command -v make >/dev/null || missing="$missing make"
command -v haproxy >/dev/null || missing="$missing haproxy"
command -v ip >/dev/null && command -v tc >/dev/null || missing="$missing iproute2"
command -v "${CC:-gcc}" >/dev/null || missing="$missing gcc libc6-dev"
[ -n "$missing" ] || exit 0

by_hand="install these packages by hand, as root, on Debian with: apt-get update && apt-get install --no-install-recommends$missing"
command -v apt-get >/dev/null || fail "missing:$missing, and there is no apt-get: $by_hand"
as_root=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || fail "missing:$missing, and neither root nor sudo: $by_hand"
	as_root=sudo
fi

echo "setup: installing$missing" >&2
install() {
	# The lists of a fresh machine are empty or old: fetched only if it does not go without.
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >&2
}
install || { $as_root apt-get update -q >&2 && install; } || fail "apt-get failed: $by_hand"
