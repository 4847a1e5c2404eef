#!/usr/bin/env bash
# arm64_root.sh ROOT   Debian's arm64 Python 3.11, unpacked into ROOT for qemu-user's -L.
#
# No container, no chroot, no binfmt, no root rights: an apt state of its own, for the architecture arm64, takes this
# Debian's own sources and keys, downloads, and dpkg-deb unpacks. What comes is what Debian signs (apt checks the
# signature of its index and each package's SHA-256 in it); no version is pinned, as the archive keeps only the last.
set -euo pipefail
ROOT=$1
STATE=$(mktemp -d)
trap 'rm -rf "$STATE"' EXIT
mkdir -p "$STATE"/lists/partial "$STATE"/cache/archives/partial
: > "$STATE/status"

run_apt() {
	apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Install-Recommends=0 \
		-o Dir::State::lists="$STATE/lists" -o Dir::State::status="$STATE/status" -o Dir::Cache="$STATE/cache" \
		-o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none "$@"
}

run_apt update
run_apt -y --download-only install libpython3.11-stdlib python3.11-minimal libstdc++6 libgomp1 zlib1g
rm -rf "$ROOT.new"
mkdir -p "$ROOT.new"
for package in "$STATE"/cache/archives/*.deb; do
	dpkg-deb -x "$package" "$ROOT.new"
done
rm -rf "$ROOT"
mv "$ROOT.new" "$ROOT"
