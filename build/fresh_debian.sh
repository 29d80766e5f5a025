#!/usr/bin/env bash
# Runs make demo on a fresh Debian 12 that has Debian's Python, gcc and make, and nothing else: no Go.
#
#     build/fresh_debian.sh [target ...]        targets of make: demo
#
# Needs root and debootstrap, and downloads Debian, torch and Ray into a temporary folder. The settings for pip, Go
# and certificates of this machine are lent to it.
set -euo pipefail
# What is mounted here is nobody else's, and gone at the end whatever happens.
if [ -z "${FRESH_DEBIAN-}" ]; then FRESH_DEBIAN=1 exec unshare --mount "$0" "$@"; fi
here="$(cd "$(dirname "$0")/.." && pwd)"
root="$(mktemp -d -t fresh-debian.XXXXXX)"
finish() {
	for place in dev/shm dev sys proc; do umount -R "$root/$place" 2>/dev/null || true; done
	if ! mountpoint -q "$root/dev" && ! mountpoint -q "$root/proc" && ! mountpoint -q "$root/sys"; then rm -rf --one-file-system "$root"; fi
}
trap finish EXIT

debootstrap --variant=minbase --include=python3,python3-venv,python3-dev,gcc,libc6-dev,make,ca-certificates \
	bookworm "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --make-rslave "$root/sys"
mount --bind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/dev/shm"
cp /etc/resolv.conf /etc/hosts "$root/etc/"
cp -r /etc/ssl/certs/. "$root/etc/ssl/certs/"
if [ -f "${PIP_CONFIG_FILE:-/etc/pip.conf}" ]; then cp "${PIP_CONFIG_FILE:-/etc/pip.conf}" "$root/etc/pip.conf"; fi
mkdir "$root/project"
(cd "$here" && git ls-files -z | tar --null -T - -cf -) | tar -C "$root/project" -xf -

settings=(HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin)
for name in "${!PIP_@}" SSL_CERT_FILE GOPROXY GOSUMDB GOFLAGS HTTPS_PROXY HTTP_PROXY NO_PROXY https_proxy http_proxy no_proxy; do
	if [ -n "${!name-}" ]; then settings+=("$name=${!name}"); fi
done
chroot "$root" env -i "${settings[@]}" make -C /project PYTHON=/usr/bin/python3 "${@:-demo}"
