#!/bin/sh
# Makes sure that what targets need is installed: tools/packages.sh GROUP..., of python, build and test
#
# What is missing is installed with apt-get where that is allowed (root, or sudo that asks for no
# password); else the one command to run is printed. Nothing is started when nothing is missing.
set -eu
directory=$(dirname "$0")
# Debian keeps administrators' programs off an ordinary user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=

# need PACKAGE WITNESS...: the package is missing unless each program is on PATH and each file exists.
need() {
    package=$1
    shift
    for witness; do
        case $witness in
        /*) test -e "$witness" ;;
        *) command -v "$witness" >/dev/null ;;
        esac || {
            missing="$missing $package"
            return
        }
    done
}

for group; do
    case $group in
    python)
        "$directory/find-python.sh" >/dev/null || missing="$missing python3-venv"
        need ca-certificates /etc/ssl/certs
        ;;
    build)
        need mmdebstrap mmdebstrap
        need gpg gpg
        need debian-archive-keyring /usr/share/keyrings/debian-archive-keyring.gpg
        if [ "$(id -u)" != 0 ]; then
            need uidmap newuidmap newgidmap
        fi
        # Packages of another architecture run their scripts under emulation (tools/emulation.sh).
        if [ "${ARCH:-$(uname -m)}" != "$(uname -m)" ]; then
            need qemu-user-static "qemu-$ARCH-static"
            need binfmt-support update-binfmts
        fi
        ;;
    test)
        need bc bc
        need binfmt-support update-binfmts
        need bison bison
        need btrfs-progs mkfs.btrfs
        need busybox-static busybox
        need cpio cpio
        need docker-registry docker-registry
        need e2fsprogs e2fsck mke2fs debugfs dumpe2fs resize2fs
        need erofs-utils mkfs.erofs fsck.erofs dump.erofs
        need file file
        need flex flex
        need gcc gcc
        need gpg-agent gpg-agent
        need kmod depmod
        need libc6-dev /usr/include/stdlib.h
        need lz4 lz4
        need openssl openssl
        need qemu-system-arm qemu-system-aarch64
        need qemu-system-x86 qemu-system-x86_64
        need qemu-user-static qemu-aarch64-static qemu-x86_64-static
        need qemu-utils qemu-img
        need shellcheck shellcheck
        need skopeo skopeo
        need squashfs-tools mksquashfs unsquashfs
        need systemd systemctl systemd-analyze
        need uidmap newuidmap newgidmap
        need umoci umoci
        need xz-utils xz
        ;;
    *)
        echo "usage: tools/packages.sh [python] [build] [test]" >&2
        exit 2
        ;;
    esac
done

if [ -z "$missing" ]; then
    exit 0
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root='sudo -n'
else
    as_root=none
fi
# $missing and $as_root are lists of words.
# shellcheck disable=SC2086
set -- $missing
if [ "$as_root" = none ] || ! command -v apt-get >/dev/null; then
    echo "make: not installed: $*. Run:" >&2
    echo "  sudo apt-get install --yes $*" >&2
    exit 1
fi
echo "installing Debian packages: $*"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086
if ! { $as_root apt-get -q update &&
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install --yes --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "$@"; } \
    </dev/null >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "make: these Debian packages could not be installed: $*" >&2
    exit 1
fi
